// SPDX-License-Identifier: Apache-2.0
// How large a rank's steps and its KV cache may be. Pure: front end and ranks size by the same rule.
#pragma once

#include <cstdint>
#include <string>

#include "core/config.h"
#include "model/files/model_files.h"
#include "parallel/layout/layout.h"
#include "runtime/job/geometry.h"

namespace nightshift::runtime {

// The least that a job can run with: the KV cache of schedule.kv_memory, or what one sequence of
// model.max_context needs. BadInput when kv_memory is less than that.
model::StepLimits least_limits(const Job& job, const model::ModelConfig& config,
                               const parallel::Degrees& degrees, bool gpu = false);

// What a rank takes. `available_memory`: bytes free on its host before any of the `ranks_here` ranks there
// has allocated its part. With schedule.kv_memory at auto, the KV cache takes half of a rank's share of what
// weights and buffers leave; never more than all sequences at their longest can fill, never less than the
// longest one needs, because answers must not depend on the pool.
// The ranks of a replica plan with the same numbers: kv_blocks is to be the least of theirs.
model::StepLimits step_limits(const Job& job, const model::ModelConfig& config,
                              const parallel::Degrees& degrees, int ranks_here,
                              std::uint64_t available_memory);

// A GPU before any of the `ranks` that compute on it has allocated anything.
struct GpuMemory {
  int ranks = 1;
  std::uint64_t free = 0;  // bytes
};
// The same of a rank on a GPU: with schedule.kv_memory at auto, the KV cache takes nearly all that is left.
// BadInput, with the sums, when weights, buffers and one longest sequence do not fit.
model::StepLimits gpu_step_limits(const Job& job, const model::ModelConfig& config,
                                  const parallel::Degrees& degrees, const GpuMemory& gpu);

// "30.9 MiB: 4.9 MiB of weights once, 2.1 MiB of KV cache and 4.4 MiB of buffers for each of 4 ranks"
std::string memory_text(const model::MemoryNeed& need, int ranks_here);

// BadInput when the ranks of one machine need more than is free there, in memory or, for the weights that
// they share, in /dev/shm.
void check_memory(const model::MemoryNeed& need, int ranks_here, const Machine& machine);

}  // namespace nightshift::runtime
