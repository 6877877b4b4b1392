#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that a GPU has to prove, in under eight minutes, from a finished build; nothing is compiled, installed or fetched:
#   bash tests/gpu/run.sh [BUILD] [--report FILE] [--small] [--only REGEX] [--list] [--seconds N]
# BUILD   the build folder, or an unpacked bundle (tests/gpu/bundle.sh); without it the bundle that this lies in, else build/cuda-release,
#         else build/cpu-release
# --small sizes for a simulated GPU (NIGHTSHIFT_CUDA_LIBRARY), on which figures mean nothing; implied there
# Writes a Markdown report (gpu-report.md) with every check, figure and command. Exit code 1: a check failed; 77: nothing could run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

build=
if (($# > 0)) && [[ $1 != --* ]]; then
  build=$(cd "$1" && pwd)
  shift
fi
for candidate in "$root" "$root/build/cuda-release" "$root/build/cpu-release"; do
  if [[ -z $build && -x $candidate/bin/nightshift ]]; then
    build=$candidate
  fi
done
if [[ -z $build ]]; then
  echo "no build: name its folder, which holds bin/nightshift" >&2
  exit 2
fi

# Programs look for the kernels beside themselves, and tests do not lie there.
if [[ -z ${NIGHTSHIFT_CUDA_LIBRARY-} ]]; then
  for library in "$build/bin/nightshift-cuda.so" "$build/programs/nightshift-cuda.so"; do
    [[ ! -f $library ]] || export NIGHTSHIFT_CUDA_LIBRARY=$library
  done
fi

if [[ ${NIGHTSHIFT_CUDA_LIBRARY-} == *simulated* ]]; then
  export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}   # no device file shows a simulated GPU
fi

# The CUDA libraries that nightshift-cuda.so wants: a toolkit's, or those that came with a Python package.
cuda_folders() {
  local folder
  for folder in /usr/local/cuda/lib64 /usr/local/cuda-*/lib64 /usr/local/cuda/targets/*/lib \
    $(python3 -c 'import glob, sys; print(*[f for p in sys.path for f in sorted(glob.glob(p + "/nvidia/*/lib"))])' 2> /dev/null); do
    if compgen -G "$folder/libcublasLt.so*" > /dev/null || compgen -G "$folder/libnccl.so*" > /dev/null; then
      printf ':%s' "$folder"
    fi
  done
}
export NIGHTSHIFT_CUDA_FOLDERS=${NIGHTSHIFT_CUDA_FOLDERS-$(cuda_folders)}
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH-}$NIGHTSHIFT_CUDA_FOLDERS"

export OMP_WAIT_POLICY=passive OMP_PROC_BIND=false NIGHTSHIFT_SOURCE=$root NIGHTSHIFT_BIN=$build/bin
if ((EUID == 0)); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
python=python3
for candidate in python3 /usr/bin/python3; do   # the end-to-end tests read HDF5
  if "$candidate" -c 'import h5py' 2> /dev/null; then
    python=$candidate
    break
  fi
done
exec "$python" -u "$here/kit.py" "$build" "$@"
