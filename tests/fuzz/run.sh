#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fuzzes every reader of outside bytes in turn, with clang's libFuzzer, address and undefined-behaviour sanitizers:
#   bash tests/fuzz/run.sh [SECONDS] [TARGET...]        60 seconds a target unless said otherwise; all targets
# Ends with a table. What the fuzzer learns stays in build/fuzz/corpus; an input that crashes is left in
# build/fuzz/findings/TARGET, and belongs into tests/fuzz/corpus/TARGET once it is dealt with.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:-60}
shift || true
build=${NIGHTSHIFT_FUZZ_BUILD:-build/fuzz}
mkdir -p "$build"
rooms="core;io;tokenizer;layout;model_files;job"

if ! command -v "${CC:-clang}" > /dev/null || ! command -v "${CXX:-clang++}" > /dev/null; then
  echo "fuzzing needs clang with libFuzzer (Debian: apt-get install clang)" >&2
  exit 77
fi
generator=()
[[ -f $build/CMakeCache.txt ]] || ! command -v ninja > /dev/null || generator=(-G Ninja)
cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DNIGHTSHIFT_FUZZ=ON "-DNIGHTSHIFT_ROOMS=$rooms" \
  -DCMAKE_C_COMPILER="${CC:-clang}" -DCMAKE_CXX_COMPILER="${CXX:-clang++}" > "$build/cmake.log" 2>&1 ||
  { cat "$build/cmake.log"; exit 1; }

targets=("$@")
if ((${#targets[@]} == 0)); then
  for source in tests/fuzz/fuzz_*.cpp; do
    name=$(basename "$source" .cpp)
    targets+=("${name#fuzz_}")
  done
fi
cmake --build "$build" --parallel "${NIGHTSHIFT_JOBS:-2}" --target "${targets[@]/#/fuzz_}" || exit 1

scratch=$(mktemp -d -p "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch
export UBSAN_OPTIONS=print_stacktrace=1
export ASAN_OPTIONS=detect_leaks=0   # HDF5 keeps free lists; leaks are looked for by the sanitizer builds of the unit tests

table=$(printf '%-14s %9s %12s %9s %9s  %s' target seconds executions exec/s features result)
failed=0
for target in "${targets[@]}"; do
  corpus=$build/corpus/$target
  findings=$build/findings/$target
  mkdir -p "$corpus" "$findings"
  dictionary=()
  [[ -f tests/fuzz/dictionaries/$target.dict ]] && dictionary=("-dict=tests/fuzz/dictionaries/$target.dict")
  memory=(-rss_limit_mb=1024 -malloc_limit_mb=512)
  # The HDF5 library (1.10) clears what a damaged string says it is long, up to 4 GiB, before it looks for the text, and walks
  # some damaged heaps for ever: neither can be stopped from outside. Crashes count, also the library's own (README.md).
  [[ $target != hdf5_bytes ]] || memory=(-rss_limit_mb=6144 -malloc_limit_mb=4500 -fork=1 -ignore_timeouts=1 -ignore_ooms=1)
  echo "==> $target, $seconds s"
  began=$(date +%s)
  "$build/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=10 "${memory[@]}" -max_len=65536 \
    -print_final_stats=1 -verbosity=1 "${dictionary[@]}" -artifact_prefix="$findings/" "$corpus" "tests/fuzz/corpus/$target" \
    > "$build/$target.log" 2>&1
  status=$?
  took=$(($(date +%s) - began))
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$target.log")
  runs=${runs:-$(grep -oE '^#[0-9]+' "$build/$target.log" | tail -1 | tr -d '#')}
  features=$(grep -oE ' ft: [0-9]+' "$build/$target.log" | tail -1 | grep -oE '[0-9]+')
  result="no findings"
  if ((status != 0)); then
    failed=1
    result="FOUND: $(grep -aoE 'SUMMARY: .*|ERROR: libFuzzer: .*' "$build/$target.log" | tail -1 | cut -c1-90), see $findings"
  fi
  table+=$(printf '\n%-14s %9d %12s %9s %9s  %s' "$target" "$took" "${runs:-?}" "$((${runs:-0} / (took > 0 ? took : 1)))" "${features:-?}" "$result")
done
echo
echo "$table"
exit $failed
