# SPDX-License-Identifier: Apache-2.0
# Sourced by jobs/quickstart.sh and tests/run.sh: from a bare machine to a built tree, one visible line a phase.
# Gives the functions phase, install_packages, configure and build, and the variables root, preset, build_dir, cores.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
preset=${NIGHTSHIFT_PRESET:-cpu-release}
build_dir=$root/build/$preset
logs=$root/build/logs
cores=$(nproc)
mkdir -p "$logs"
cd "$root"

# Open MPI refuses root unless told; a container's root is no reason to stop.
if ((EUID == 0)); then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
if command -v ccache > /dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=${CMAKE_C_COMPILER_LAUNCHER:-ccache}
  export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER:-ccache}
fi

packages=(g++ cmake ninja-build pkg-config ca-certificates libhdf5-dev libopenmpi-dev openmpi-bin libpcre2-dev
  libutf8proc-dev libxxhash-dev libfmt-dev libspdlog-dev libtomlplusplus-dev nlohmann-json3-dev libcli11-dev)

# On a terminal, the build's newest [done/total] stands behind the phase's line for as long as the file "running" exists.
running=$logs/.running
trap 'rm -f "$running"' EXIT

watch_log() {
  local mark
  while sleep 0.5 && [[ -e $running ]] && kill -0 $$ 2> /dev/null; do
    mark=$(tail -c 2000 "$1" 2> /dev/null | grep -oE '\[[0-9]+/[0-9]+\]' | tail -1) || true
    printf '%-13s\b\b\b\b\b\b\b\b\b\b\b\b\b' "$mark"
  done
}

# phase NAME TITLE COMMAND...: runs the command with its output in build/logs/NAME.log and prints one line with the time;
# on failure shows the end of the log and stops.
phase() {
  local name=$1 title=$2 log=$logs/$1.log start=$SECONDS status=0
  shift 2
  printf '==> %-58s ' "$title"
  : > "$log"
  if [[ -t 1 ]]; then
    touch "$running"
    watch_log "$log" &
  fi
  "$@" >> "$log" 2>&1 < /dev/null || status=$?
  rm -f "$running"
  wait
  if ((status != 0)); then
    printf 'FAILED after %d s\n' $((SECONDS - start))
    tail -n 40 "$log" | sed 's/^/    /'
    echo "    (all of it: $log)"
    exit 1
  fi
  printf '%5d s\n' $((SECONDS - start))
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  else
    sudo "$@"
  fi
}

missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2> /dev/null | grep -q '^ii' || echo "$package"
  done
}

apt_install() {
  local get=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120)
  as_root "${get[@]}" install --no-install-recommends "$@" && return
  as_root "${get[@]}" update   # the package lists are absent or out of date
  as_root "${get[@]}" install --no-install-recommends "$@"
}

# install_packages PACKAGE...: with apt, installs what is missing of the common packages and these. Elsewhere (a site with
# modules) says what is not on the path and goes on: CMake knows better what it can find.
install_packages() {
  local wanted=("${packages[@]}" "$@") missing command
  if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
    for command in c++ cmake ninja pkg-config mpirun; do
      command -v "$command" > /dev/null || echo "    not on the path: $command"
    done
    echo "    no apt on this machine; nightshift needs what these Debian packages hold: ${wanted[*]}"
    return
  fi
  python3 -m pip --version > /dev/null 2>&1 || wanted+=(python3-pip)   # one of the ways to the pinned dependencies
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  if ((${#missing[@]} == 0)); then
    return
  fi
  if ((EUID != 0)) && ! command -v sudo > /dev/null; then
    echo "    missing, and neither root nor sudo here: ${missing[*]}"
    return
  fi
  if ((EUID != 0)); then
    sudo -v || true   # asks for the password now, where it can be seen
  fi
  echo "    missing packages: ${missing[*]}"
  phase packages "installing ${#missing[@]} packages with apt" apt_install "${missing[@]}"
}

# offered_packages PACKAGE...: those that this distribution has, for what the checks can do without.
offered_packages() {
  local package
  for package in "$@"; do
    apt-cache show "$package" > /dev/null 2>&1 && echo "$package"
  done
}

run_cmake() {
  cmake --preset "$preset" "$@"
}

# configure [CMAKE ARGUMENT...]: also fetches and builds Kokkos and minja the first time. Where nothing else gives a Kokkos,
# the Debian archive's own copy does.
configure() {
  phase configure "configuring (the first time also Kokkos, about a minute)" configure_or_fall_back "$@"
  grep -E '^-- (Kokkos: [0-9.]+ in|minja: /)' "$logs/configure.log" | sort -u | sed 's/^--/   /'
}

configure_or_fall_back() {
  run_cmake "$@" && return
  if ! grep -q 'Kokkos was not found and could not be fetched' "$logs/configure.log" || ! command -v apt-get; then
    return 1
  fi
  apt_install libtrilinos-kokkos-dev && run_cmake "$@"
}

# build [TARGET...]: as many compilers as there are cores, but at most one for each 1.5 GiB of memory.
build() {
  local memory jobs
  memory=$(awk '/MemAvailable/ {print int($2 / 1572864)}' /proc/meminfo)
  jobs=$((memory < cores ? memory : cores))
  phase build "building (${build_dir#"$root"/}, $((jobs > 0 ? jobs : 1)) at a time)" \
    cmake --build "$build_dir" --parallel $((jobs > 0 ? jobs : 1)) ${1:+--target "$@"}
}
