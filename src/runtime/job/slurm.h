// SPDX-License-Identifier: Apache-2.0
// What Slurm says of an allocation, in its environment variables and commands. Pure, given their text.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nightshift::runtime {

// An allocation that this process stands in, or commands from a login node.
struct Slurm {
  int nodes = 1;
  std::optional<int> tasks = {};  // as the user asked for them
  std::optional<int> cpus_per_task = {};
  bool has_srun = false;
  bool has_pmix = false;

  // In the order of the nodes; empty where Slurm does not say, or where the user asked for no tasks.
  std::vector<int> tasks_on_node = {};
  std::vector<int> cpus_on_node = {};
  std::optional<int> gpus_on_node = {};       // of the first node
  bool on_a_node = true;                      // false: a shell that salloc opened on the login node
  std::optional<std::int64_t> end_time = {};  // Unix seconds
};

// By name; nullptr where it is not set.
using Variables = std::function<const char*(const char*)>;

// The SLURM_* variables of the allocation; nullopt outside one. Leaves has_srun and has_pmix alone, and
// end_time too where Slurm (before 23.02) did not set SLURM_JOB_END_TIME.
std::optional<Slurm> read_allocation(const Variables& variable);

// "4(x2),3" -> 4 4 3, as in SLURM_TASKS_PER_NODE and SLURM_JOB_CPUS_PER_NODE; empty where it is malformed.
std::vector<int> parse_counts(std::string_view text);

// Unix seconds ("1795265288"), or the local time that squeue and scontrol print ("2026-11-21T12:44:25");
// nullopt for NONE, Unknown and whatever else is no time.
std::optional<std::int64_t> parse_end_time(std::string_view text);

// The shell command that asks Slurm when the job ends, for parse_end_time(). "" where `job_id` is no number.
std::string end_time_query(std::string_view job_id);

// The device of a node's `local_rank`-th rank, from the list in CUDA_VISIBLE_DEVICES ("0,3",
// "GPU-5f..,MIG-.."); ranks beyond the last one begin again. "" where there is no choice: an empty list, or
// one device.
std::string device_of_rank(std::string_view visible, int local_rank);

}  // namespace nightshift::runtime
