#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# keep_output.sh COMPILER ARGUMENT... -o OBJECT ...: runs the compiler, keeps what it says in OBJECT.ptxas for
# tests/kernels/kernel_table.py, and repeats all but ptxas' account of registers.
object=
for ((i = 1; i < $#; ++i)); do
  [[ ${!i} == -o ]] && next=$((i + 1)) && object=${!next}
done
if [[ $object != *.o ]]; then
  exec "$@"
fi
"$@" > "$object.ptxas" 2>&1
status=$?
grep -vE '^ptxas info|^ *[0-9]+ bytes stack frame' "$object.ptxas" >&2
exit $status
