// SPDX-License-Identifier: Apache-2.0
// nightshift-rank SESSION_DIR: the worker that mpirun or srun starts, one per GPU or CPU share. Not for
// hands: `nightshift run` prepares the session and starts it.
#include <cstdlib>
#include <iostream>

#include "core/check.h"
#include "kernels/kernels.h"
#include "runtime/job/slurm.h"
#include "runtime/runtime.h"

namespace {

using namespace nightshift;

// The launcher's word for the place of this rank among those of its node; -1 without one.
int local_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return -1;
}

// Every rank sees one GPU of its node, its own. Before MPI starts, which may look for GPUs too.
void bind_device() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::string device = runtime::device_of_rank(visible != nullptr ? visible : "", local_rank());
  if (!device.empty()) ::setenv("CUDA_VISIBLE_DEVICES", device.c_str(), 1);
}

int report(const std::string& what, Exit exit) {
  // In one piece: launchers put the rank's number in front of each.
  std::cerr << fmt::format("nightshift-rank on {}: {}\n", parallel::Communicator::host_name(), what);
  return static_cast<int>(exit);
}

int work(const char* session_dir, const char* launcher) {
  try {
    const auto world = parallel::Communicator::world();
    const kernels::Environment compute;
    runtime::run_rank(runtime::Session(session_dir, launcher), world, compute.threads());
    return static_cast<int>(Exit::done);
  } catch (const Error& error) {
    return report(error.what(), error.exit());
  } catch (const std::exception& error) {
    return report(error.what(), Exit::failed);
  }
}

}  // namespace

int main(int argc, char** argv) {
  bind_device();
  parallel::Environment mpi(&argc, &argv);
  if (argc != 2 && argc != 3)
    return report("usage: nightshift-rank SESSION_DIR [LAUNCHER]; start jobs with `nightshift run`",
                  Exit::bad_input);
  const int code = work(argv[1], argc == 3 ? argv[2] : "");
  if (code != 0) parallel::Environment::abort(code);  // the others may be waiting for this rank
  return code;
}
