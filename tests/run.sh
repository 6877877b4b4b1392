#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds everything, checks the style rules and runs the tests:
#   bash tests/run.sh [CTEST ARGUMENT...]        e.g. -L unit, -R tokenizer, -j2
# Labels: unit, mpi, slow, gpu (left out where there is no GPU). Ends with "N passed, N failed, N skipped".
source "$(dirname "${BASH_SOURCE[0]}")/../.ci/bootstrap.sh"

# count NAME: an attribute of the first element of ctest's JUnit file.
count() {
  grep -m1 -oE "\b$1=\"[0-9]+\"" "$build_dir/tests.xml" | grep -m1 -oE '[0-9]+'
}

has_gpu() {
  command -v nvidia-smi > /dev/null && nvidia-smi -L 2> /dev/null | grep -q '^GPU'
}

# The first Python that can read HDF5: a python3 of the user's own may stand before the system's and lack h5py.
python_with_h5py() {
  local python
  for python in "$(command -v python3)" /usr/bin/python3; do
    "$python" -c 'import h5py' 2> /dev/null && echo "-DPython3_EXECUTABLE=$python" && return
  done
  echo "-UPython3_EXECUTABLE"
}

install_packages libgtest-dev python3-h5py
mapfile -t optional < <(offered_packages clang-format-14 slurm-wlm munge)
((${#optional[@]} == 0)) || install_packages "${optional[@]}"
configure -DNIGHTSHIFT_TESTS=ON "$(python_with_h5py)"
build

check_failed=0
bash .ci/check.sh || check_failed=1

labels=(-LE '^gpu$')
if has_gpu; then
  labels=()
else
  echo "==> no GPU here: the tests labelled gpu are left out"
fi
export TSAN_OPTIONS="suppressions=$root/tests/tsan.supp${TSAN_OPTIONS:+:$TSAN_OPTIONS}"   # of builds with the thread sanitizer
rm -f "$build_dir/tests.xml"
status=0
ctest --test-dir "$build_dir" --output-on-failure --no-tests=error --timeout 900 --output-junit "$build_dir/tests.xml" \
  -j 2 ${labels[@]+"${labels[@]}"} "$@" || status=$?   # what wants the machine for itself says so (RUN_SERIAL, PROCESSORS)

if [[ ! -s $build_dir/tests.xml ]]; then
  echo "ctest left no results (exit status $status)"
  exit 1
fi
tests=$(count tests)
failed=$(count failures)
skipped=$(($(count skipped) + $(count disabled)))
((status == 0 || failed > 0)) || failed=1   # a test that could not be started at all
# The style rules count as one more test.
echo "$((tests - failed - skipped + 1 - check_failed)) passed, $((failed + check_failed)) failed, $skipped skipped"
exit $((status != 0 || check_failed != 0))
