// SPDX-License-Identifier: Apache-2.0
// How many ranks, with how many threads, bound how: resolved once, before anything starts. Pure, given the
// machine.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "parallel/layout/layout.h"
#include "runtime/job/slurm.h"

namespace nightshift::runtime {

// What this process may use: affinity mask and cgroup quota, not what is built in.
struct Machine {
  int cores = 1;                   // physical; hardware threads of one core count once
  int sockets = 1;                 // with at least one usable core
  int gpus = 0;                    // visible and usable by this build
  std::uint64_t memory_bytes = 0;  // available now
  // Of it, what /dev/shm still takes, where ranks share their weights; nullopt: no limit of its own.
  std::optional<std::uint64_t> shared_bytes = {};
  bool root = false;
  bool single_copy = true;  // processes may read each other's memory; many containers forbid it

  bool one_sided_chosen = false;  // the user or the site names Open MPI's components for it in OMPI_MCA_osc

  std::optional<Slurm> slurm;  // when this process stands in an allocation
};
Machine probe_machine();

// Bytes that this process may still use: of the machine, and of the control groups around it, whose file
// caches give way.
std::uint64_t available_memory();

bool may_use_gpus(const Job& job);     // the job leaves it to the machine, or asks for them
bool needs_gpus(const Job& job);       // asks for them
bool strict_numerics(const Job& job);  // of GPUs; CPUs are always strict

// Ranks of a replica as the job names them; auto is 1.
parallel::Degrees degrees_of(const Job& job);

struct Geometry {
  int ranks = 1;  // replicas * degrees.ranks()
  int replicas = 1;
  parallel::Degrees degrees;
  int ranks_per_node = 1;  // the most on one node
  int threads = 1;         // compute threads per rank
  bool bound = true;       // every rank on cores of its own

  // "4 ranks = 2 replicas x (sequence 2 x tensor 1)"; "2 ranks" where a replica is a rank.
  std::string text() const;
};

// BadInput when the job asks for GPUs that the machine has not, or names device and kernels that contradict.
void check_device(const Job& job, const Machine& machine);

// `ranks`: what the command line asks for, 0 for nothing. Where nobody says how many, as many whole replicas
// as there are devices for, at least one. BadInput when job, command line and this version contradict, or
// when the ranks are no whole number of replicas.
Geometry resolve_geometry(const Job& job, int ranks, const Machine& machine);

// A command line and what it needs in its environment.
struct LaunchCommand {
  std::vector<std::string> argv;
  std::map<std::string, std::string> environment;

  std::string text() const;  // for a shell, with the environment in front
};

// The ranks find the end of the allocation, where it is known, in SLURM_JOB_END_TIME (Unix seconds).
// mpirun on one machine; srun inside an allocation (mpirun there when srun cannot start MPI programs).
// Consecutive ranks, and so those of a replica, share a node while it has room.
LaunchCommand launch_command(const Geometry& geometry, const Machine& machine,
                             const std::string& rank_program, const std::string& session_dir);

}  // namespace nightshift::runtime
