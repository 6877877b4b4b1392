#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The rules that a compiler does not see, in seconds:  bash .ci/check.sh
#   format (clang-format 14), foreign headers behind their fences, rooms calling only the rooms below them, file length,
#   licence lines, unfinished-work marks, and nothing that only one machine has.
# That every header compiles alone is part of the build (target nightshift_headers).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Every check writes its findings here, one a line; any at all is a failure.
findings=$(mktemp)
trap 'rm -f "$findings"' EXIT
complain() {   # complain RULE: reads offending lines
  local line
  while IFS= read -r line; do
    printf '%s: %s\n' "$1" "$line"
  done >> "$findings"
}

# Every file that is or would be committed; without git (an unpacked release) every file outside build folders.
list_files() {
  if git rev-parse --git-dir > /dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard "$@" | while read -r f; do [[ -f $f ]] && echo "$f"; done
  else
    find . -path ./build -prune -o -type f -print | sed 's|^\./||'
  fi
}
mapfile -t all < <(list_files)
mapfile -t cxx < <(printf '%s\n' "${all[@]}" | grep -E '\.(h|cpp|cu|cuh)$')
mapfile -t code < <(printf '%s\n' "${all[@]}" | grep -E '\.(h|cpp|cu|cuh|py|sh|cmake|sbatch)$|CMakeLists.txt$|^\.ci/')
mapfile -t text < <(printf '%s\n' "${all[@]}" | grep -vE '^(inputs|tests/goldens)/|^LICENSE$')

check_format() {
  local tool
  for tool in clang-format-14 clang-format; do
    if "$tool" --version 2> /dev/null | grep -q 'version 14\.'; then
      "$tool" --dry-run -Werror "${cxx[@]}" 2>&1 | sed -nE 's/^([^:]+):[0-9]+:[0-9]+: error.*/\1: run clang-format -i on it/p' |
        uniq | complain format
      return
    fi
  done
  echo "format: skipped, because clang-format 14 is not on this machine"
}

# One line "file:line: header" for every #include; the rest of the include rules read this list.
includes() {
  awk '/^[ \t]*#[ \t]*include[ \t]*[<"]/ {
    header = $0; sub(/^[^<"]*[<"]/, "", header); sub(/[>"].*/, "", header); print FILENAME ":" FNR ": " header }' "${cxx[@]}"
}

# HEADERS (pattern)                          FOLDERS that may include them; a room's tests may what the room may
fences='(hdf5|H5.*)\.h$                     ^(src|tests)/io/
mpi\.h$                                      ^((src|tests)/parallel|src/cli)/
nccl\.h$                                     ^(kernels/cuda|tests/kernels)/
(cuda|cublas|cutlass|cute/|nv).*             ^(kernels|tests/kernels|(src|tests)/parallel)/
Kokkos_.*                                    ^(kernels|tests/kernels)/'

check_fences() {
  local header folder
  while read -r header folder; do
    includes | grep -E ": $header" | grep -vE "$folder" | grep -vE ': nvtx' | complain fence
  done <<< "$fences"
}

# ROOM FOLDER        the folders of the rooms it may include besides its own
rooms='src/core
src/io               core
src/tokenizer        core
src/scheduler        core
src/parallel/layout  core
src/parallel         core
kernels              core
src/model/files      parallel/layout core
src/model            kernels parallel core
src/runtime/job      model/files parallel/layout io core
src/runtime          scheduler model parallel tokenizer io core
src/sim              scheduler parallel core
src/cli              runtime sim scheduler model kernels parallel tokenizer io core'

check_rooms() {
  includes | awk -v rooms="$rooms" '
    function legal(i, header,   j, k, word) {
      k = split(rows[i], word, " +")
      sub(/^src\//, "", word[1])
      for (j = 1; j <= k; ++j) if (index(header, word[j] "/") == 1) return 1
      return 0
    }
    BEGIN {
      n = split(rooms, rows, "\n")
      for (i = 1; i <= n; ++i) {
        folder[i] = rows[i]; sub(/ .*/, "", folder[i])
        top = folder[i]; sub(/^src\//, "", top); sub(/\/.*/, "", top); room[top] = 1
      }
    }
    {
      called = $2; sub(/\/.*/, "", called)
      if (called == $2 || !(called in room)) next
      for (i = 1; i <= n; ++i) if (index($1, folder[i] "/") == 1) {
        if (!legal(i, $2)) print $0 "   (" folder[i] " may not call that room)"
        break
      }
    }' | complain room
}

check_text() {
  wc -l "${code[@]}" | awk '$1 > 600 && $2 != "total" { print $2 ": " $1 " lines, split it at 600" }' | complain length
  grep -LE 'SPDX-License-Identifier: Apache-2\.0' "${code[@]}" | complain licence
  grep -nE '\b(TO[D]O|FIX[M]E|XX[X])\b' "${code[@]}" | complain unfinished
  # Addresses of package registries and folders of the machine somebody worked on.
  grep -nIE '/[w]ork/|/tmp/[n]s\b|/[r]oot/|/[h]ome/[a-z]|[p]ypi\.|[p]ythonhosted|[d]eb\.debian|[a]rchive\.ubuntu' "${text[@]}" |
    complain machine
}

check_format
check_fences
check_rooms
check_text
if [[ -s $findings ]]; then
  cat "$findings"
  echo "==> style rules: $(wc -l < "$findings") findings"
  exit 1
fi
echo "==> style rules: kept in ${#code[@]} source files"
