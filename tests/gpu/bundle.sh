#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs a build for a machine that has a GPU and nothing else of ours:
#   bash tests/gpu/bundle.sh BUILD FILE.tar.xz       then there: tar xf FILE.tar.xz && bash nightshift-gpu/tests/gpu/run.sh
# Programs and tests (stripped), the shared libraries that they load, Open MPI with its plugins, the tiny model, the kit. Not packed, since
# that machine has them: glibc and libstdc++ (no older than here), the driver, cuBLASLt and NCCL of a CUDA toolkit or a Python package, and
# Python with h5py and numpy. Fails above 64 MiB.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "${1:?the build folder}" && pwd)
file=$(realpath -m "${2:?the file to write}")
most=$((64 << 20))

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
top=$staging/nightshift-gpu
mkdir -p "$top"/{bin,programs,lib,mpi/bin,mpi/etc,mpi/share}

for program in bin/nightshift bin/nightshift-rank bin/nightshift-cuda.so kernels_test model_test tests/bench/gpu_kernels_bench \
  tests/bench/offline_bench simulated/nightshift-cuda-simulated.so; do
  if [[ ! -f $build/$program ]]; then
    echo "left out, because it is not built: $program" >&2
    continue
  fi
  cp "$build/$program" "$top/programs/"
done
# The programs look for nightshift-rank and nightshift-cuda.so beside themselves: all lie in programs/, and bin/ starts them there.
for program in "$top"/programs/*; do
  [[ $program == *.so ]] || printf '%s\n' '#!/bin/sh' 'here=$(cd "$(dirname "$0")/.." && pwd)' \
    'export LD_LIBRARY_PATH="$here/lib${NIGHTSHIFT_CUDA_FOLDERS-}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"' \
    'export OPAL_PREFIX="$here/mpi" PMIX_PREFIX="$here/mpi/pmix" PMIX_INSTALL_PREFIX="$here/mpi/pmix" PATH="$here/mpi/bin:$PATH"' \
    'export PMIX_MCA_pcompress_base_silence_warning=1' \
    'export OMPI_MCA_plm_rsh_agent=false   # one machine: nobody is called over the network' \
    "exec \"\$here/programs/${program##*/}\" \"\$@\"" > "$top/bin/${program##*/}"
done
chmod +x "$top"/bin/*

# Open MPI under a prefix of its own, in the folders where this build of it looks below its prefix.
prefix=$(ompi_info --path prefix --parsable | cut -d: -f3)
plugins=$(ompi_info --path pkglibdir --parsable | cut -d: -f3)
data=$(ompi_info --path pkgdatadir --parsable | cut -d: -f3)
mkdir -p "$top/mpi/${plugins#"$prefix"/}" "$top/mpi/${data#"$prefix"/}"
# Without what talks to networks that one machine does not have.
for plugin in "$plugins"/*.so; do
  case ${plugin##*/} in
    *ucx* | *ofi* | *psm* | *usnic* | *openib* | *portals* | *cuda* | *slurm* | *tm.so | *lsf* | *romio* | *hcoll*) ;;
    *) cp "$plugin" "$top/mpi/${plugins#"$prefix"/}/" ;;
  esac
done
cp -L "$data"/*.txt "$top/mpi/${data#"$prefix"/}/"
for command in mpirun orted; do
  cp -L "$(command -v $command)" "$top/mpi/bin/$command"
done
# PMIx has plugins and a prefix of its own.
for plugins in "$prefix"/lib/*/pmix2/lib/pmix "$prefix"/lib/pmix "$prefix"/lib/*/pmix; do
  if compgen -G "$plugins/*.so" > /dev/null; then
    mkdir -p "$top/mpi/pmix/lib" "$top/mpi/pmix/share"
    cp -r "$plugins" "$top/mpi/pmix/lib/"
    cp -rL "${plugins%/lib/pmix}/share/pmix" "$top/mpi/pmix/share/" 2> /dev/null || true
    break
  fi
done

# Everything that these load, except what must be that machine's own.
find "$top" -type f \( -perm -u+x -o -name '*.so' \) -exec sh -c 'ldd "$1" 2> /dev/null' _ {} \; | awk '$3 ~ /^\// { print $3 }' | sort -u |
  grep -vE '/(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s|cublas\w*|cuda\w*|nccl|nvidia-ml))\.so' |
  while read -r library; do
    cp -L "$library" "$top/lib/"
  done
find "$top" -type f \( -path '*/programs/*' -o -path '*/lib/*' -o -path '*/mpi/*' \) -exec strip --strip-unneeded {} + 2> /dev/null || true

# What the kit and the tests read, and which commit it is.
(cd "$root" && tar cf - --exclude=__pycache__ tests/gpu tests/e2e tests/bench tests/model/goldens inputs jobs docs/performance.md) | tar xf - -C "$top"
git -C "$root" describe --always --dirty --abbrev=12 > "$top/COMMIT" 2> /dev/null || echo "not known" > "$top/COMMIT"

tar cf - -C "$staging" nightshift-gpu | xz -T0 -6 > "$file"
size=$(stat -c %s "$file")
echo "$file: $((size >> 20)) MiB packed, $(du -sm "$top" | cut -f1) MiB unpacked, $(find "$top/lib" -type f | wc -l) libraries"
if ((size > most)); then
  echo "more than $((most >> 20)) MiB" >&2
  exit 1
fi
