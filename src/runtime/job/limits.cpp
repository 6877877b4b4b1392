// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/limits.h"

#include <algorithm>

#include "core/check.h"
#include "core/text.h"

namespace nightshift::runtime {
namespace {

// Of a step: enough rows to fill the matrix units, short enough steps. And the sequences that run at once.
struct Widths {
  std::int64_t token_budget, max_sequences;
};
constexpr Widths kCpu{512, 256}, kGpu{4096, 1024};
constexpr double kGpuKvShare = 0.95;  // of what weights and buffers leave: memory comes in pages of 2 MiB
constexpr std::int64_t kMostKvBytes = std::int64_t{64} << 30;

std::string bytes_text(std::int64_t bytes) {
  return format_bytes(static_cast<double>(bytes));
}

std::int64_t blocks_per_sequence(const model::StepLimits& limits) {
  return (limits.max_context + kKvBlockTokens - 1) / kKvBlockTokens;
}
std::int64_t least_blocks(const model::StepLimits& limits) {
  const std::int64_t one = blocks_per_sequence(limits);
  return one + one / 50 + 2;  // and the scheduler's watermark
}
std::int64_t most_blocks(const model::StepLimits& limits) {
  return std::max(least_blocks(limits), blocks_per_sequence(limits) * limits.max_sampled_rows + 2);
}

// A step without its KV cache.
model::StepLimits widths(const Job& job, const model::ModelConfig& config, const Widths& usual) {
  model::StepLimits limits;
  limits.max_context = job.model.max_context.value_or(model::longest_context(config));
  const std::int64_t budget = job.schedule.token_budget.value_or(usual.token_budget);
  const std::int64_t sequences = job.schedule.max_sequences.value_or(usual.max_sequences);
  limits.max_query_tokens = static_cast<int>(std::max(budget, sequences));
  limits.max_sampled_rows = static_cast<int>(sequences);
  return limits;
}

std::int64_t blocks_of_kv_memory(const Job& job, const model::StepLimits& limits, std::int64_t block) {
  const std::uint64_t given = job.schedule.kv_memory->value;
  const std::int64_t blocks = static_cast<std::int64_t>(given) / block;
  const std::int64_t least = least_blocks(limits);
  if (blocks < least) {
    throw BadInput(fmt::format("schedule.kv_memory of {} holds {} tokens, less than one sequence of {}",
                               bytes_text(static_cast<std::int64_t>(given)), blocks * kKvBlockTokens,
                               limits.max_context),
                   fmt::format("give at least {}, or lower model.max_context", bytes_text(least * block)));
  }
  return std::min(blocks, most_blocks(limits));
}

}  // namespace

model::StepLimits least_limits(const Job& job, const model::ModelConfig& config,
                               const parallel::Degrees& degrees, bool gpu) {
  model::StepLimits limits = widths(job, config, gpu ? kGpu : kCpu);
  const std::int64_t block = model::kv_block_bytes(config.shape, degrees);
  limits.kv_blocks = job.schedule.kv_memory ? blocks_of_kv_memory(job, limits, block) : least_blocks(limits);
  return limits;
}

model::StepLimits step_limits(const Job& job, const model::ModelConfig& config,
                              const parallel::Degrees& degrees, int ranks_here,
                              std::uint64_t available_memory) {
  model::StepLimits limits = least_limits(job, config, degrees);
  if (job.schedule.kv_memory) return limits;
  const model::MemoryNeed need = model::bytes_needed(config, limits, degrees);
  const std::int64_t share =
      (static_cast<std::int64_t>(available_memory) - need.weights) / ranks_here - need.step_buffers;
  const std::int64_t affordable =
      std::min(share / 2, kMostKvBytes) / model::kv_block_bytes(config.shape, degrees);
  limits.kv_blocks = std::clamp(affordable, limits.kv_blocks, most_blocks(limits));
  return limits;
}

model::StepLimits gpu_step_limits(const Job& job, const model::ModelConfig& config,
                                  const parallel::Degrees& degrees, const GpuMemory& gpu) {
  model::StepLimits limits = least_limits(job, config, degrees, true);
  const model::MemoryNeed need = model::gpu_bytes_needed(config, limits, degrees);
  const std::int64_t share = static_cast<std::int64_t>(gpu.free) / gpu.ranks;
  if (need.total() > share)
    throw BadInput(
        fmt::format(
            "the GPU has {} free{}; a rank needs at least {}: {} of weights, {} of KV cache, {} of buffers",
            bytes_text(static_cast<std::int64_t>(gpu.free)),
            gpu.ranks == 1 ? "" : fmt::format(" for {} ranks", gpu.ranks), bytes_text(need.total()),
            bytes_text(need.weights), bytes_text(need.kv_cache), bytes_text(need.step_buffers)),
        "a larger parallel.tensor, a smaller model.max_context, schedule.token_budget, "
        "schedule.max_sequences "
        "or schedule.kv_memory");
  if (job.schedule.kv_memory) return limits;
  const auto left = static_cast<double>(share - need.weights - need.step_buffers);
  const auto affordable =
      static_cast<std::int64_t>(kGpuKvShare * left) / model::kv_block_bytes(config.shape, degrees);
  limits.kv_blocks = std::clamp(affordable, limits.kv_blocks, most_blocks(limits));
  return limits;
}

std::string memory_text(const model::MemoryNeed& need, int ranks_here) {
  return fmt::format("{}: {} of weights{}, {} of KV cache and {} of buffers{}",
                     bytes_text(need.on_host(ranks_here)), bytes_text(need.weights),
                     ranks_here == 1 ? "" : " once", bytes_text(need.kv_cache), bytes_text(need.step_buffers),
                     ranks_here == 1 ? "" : fmt::format(" for each of {} ranks", ranks_here));
}

void check_memory(const model::MemoryNeed& need, int ranks_here, const Machine& machine) {
  const auto free = static_cast<std::int64_t>(machine.memory_bytes);
  if (free > 0 && need.on_host(ranks_here) > free)
    throw BadInput(fmt::format("this machine has {} free; the job needs at least {}", bytes_text(free),
                               memory_text(need, ranks_here)),
                   "fewer --ranks, a smaller model.max_context or schedule.kv_memory, or a larger machine");
  if (ranks_here == 1 || !machine.shared_bytes) return;
  const auto shared = static_cast<std::int64_t>(*machine.shared_bytes);
  if (need.weights > shared)
    throw BadInput(fmt::format("{} ranks on this machine share {} of weights in /dev/shm, where {} is free",
                               ranks_here, bytes_text(need.weights), bytes_text(shared)),
                   "remove what killed programs left there, enlarge it (mount -o remount,size=..., or the "
                   "container's --shm-size), or take --ranks 1, which needs none");
}

}  // namespace nightshift::runtime
