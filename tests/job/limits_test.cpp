// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/limits.h"

#include "job/support.h"

namespace nightshift::runtime {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr parallel::Degrees kOne{}, kFour{.sequence = 2, .tensor = 2};

// 2 layers, 8 KV heads of 64: 4 KiB of K and V per token, 64 KiB per block.
model::ModelConfig model_config() {
  model::ModelConfig config;
  config.shape = {.layers = 2,
                  .hidden = 512,
                  .intermediate = 1024,
                  .heads = 8,
                  .kv_heads = 8,
                  .head_dim = 64,
                  .vocab = 1000,
                  .tied_embeddings = true};
  config.max_positions = 4096;
  return config;
}

Job job_of(std::int64_t context, std::int64_t sequences) {
  Job job;
  job.model.max_context = context;
  job.schedule.max_sequences = sequences;
  return job;
}

TEST(StepLimits, WidthsFollowTheJob) {
  Job job = job_of(4096, 100);
  EXPECT_EQ(least_limits(job, model_config(), kOne).max_query_tokens, 512);
  EXPECT_EQ(least_limits(job, model_config(), kOne).max_sampled_rows, 100);
  job.schedule.token_budget = 64;  // every running sequence must be able to decode in one step
  EXPECT_EQ(least_limits(job, model_config(), kOne).max_query_tokens, 100);
  job.model.max_context.reset();
  EXPECT_EQ(least_limits(job, model_config(), kOne).max_context, 4096);
}

TEST(StepLimits, TheLeastHoldsOneLongestSequence) {
  const model::StepLimits limits = least_limits(job_of(4096, 100), model_config(), kOne);
  EXPECT_EQ(limits.kv_blocks, 256 + 256 / 50 + 2);
  EXPECT_EQ(step_limits(job_of(4096, 100), model_config(), kOne, 1, 0).kv_blocks, limits.kv_blocks)
      << "however little memory there is";
}

TEST(StepLimits, AutomaticCacheTakesHalfOfWhatIsLeft) {
  const Job job = job_of(4096, 1000);
  const model::StepLimits least = least_limits(job, model_config(), kOne);
  const model::MemoryNeed need = model::bytes_needed(model_config(), least);
  const std::int64_t left = static_cast<std::int64_t>(2 * kGiB) - need.weights - need.step_buffers;
  const model::StepLimits limits = step_limits(job, model_config(), kOne, 1, 2 * kGiB);
  EXPECT_EQ(limits.kv_blocks, left / 2 / (64 << 10));
  EXPECT_LE(model::bytes_needed(model_config(), limits).total(), static_cast<std::int64_t>(2 * kGiB));
}

TEST(StepLimits, RanksOfAHostShareMemoryButNotTheWeights) {
  const Job job = job_of(4096, 10000);
  const model::StepLimits limits = step_limits(job, model_config(), kFour, 8, 4 * kGiB);
  const model::MemoryNeed need = model::bytes_needed(model_config(), limits, kFour);
  const std::int64_t share = (static_cast<std::int64_t>(4 * kGiB) - need.weights) / 8 - need.step_buffers;
  const std::int64_t block = model::kv_block_bytes(model_config().shape, kFour);
  EXPECT_EQ(block, (64 << 10) / 4) << "a quarter of the heads";
  EXPECT_EQ(limits.kv_blocks, share / 2 / block);
}

TEST(StepLimits, NeverMoreThanAllSequencesCanFill) {
  EXPECT_EQ(step_limits(job_of(1600, 4), model_config(), kOne, 1, 64 * kGiB).kv_blocks, 4 * 100 + 2);
  EXPECT_EQ(step_limits(job_of(1600, 1), model_config(), kOne, 1, 64 * kGiB).kv_blocks, 100 + 2 + 2)
      << "one sequence and the watermark";
}

TEST(StepLimits, NamedMemoryIsPerRankAndMustHoldOneSequence) {
  Job job = job_of(4096, 1000);
  job.schedule.kv_memory = ByteCount{64 << 20};
  EXPECT_EQ(step_limits(job, model_config(), kOne, 1, 0).kv_blocks, 1024);
  EXPECT_EQ(step_limits(job, model_config(), kFour, 1, 0).kv_blocks, 4096)
      << "a rank holds a quarter of a block";
  job.schedule.kv_memory = ByteCount{4 << 20};
  const std::string message = test::message_of([&] { least_limits(job, model_config(), kOne); });
  EXPECT_NE(message.find("holds 1024 tokens, less than one sequence of 4096"), std::string::npos) << message;
  EXPECT_NO_THROW(least_limits(job_of(512, 1000), model_config(), kOne));
}

TEST(GpuLimits, TheCacheTakesNearlyAllThatIsLeft) {
  const Job job = job_of(4096, 4096);
  const model::StepLimits least = least_limits(job, model_config(), kOne, true);
  EXPECT_EQ(least.max_query_tokens, 4096);
  const model::MemoryNeed need = model::gpu_bytes_needed(model_config(), least);
  const model::StepLimits limits = gpu_step_limits(job, model_config(), kOne, {.ranks = 2, .free = 8 * kGiB});
  const auto left =
      static_cast<double>(static_cast<std::int64_t>(4 * kGiB) - need.weights - need.step_buffers);
  EXPECT_EQ(limits.kv_blocks, static_cast<std::int64_t>(0.95 * left) / (64 << 10));
  EXPECT_LE(model::gpu_bytes_needed(model_config(), limits).total(), static_cast<std::int64_t>(4 * kGiB));
}

TEST(GpuLimits, RanksOfATensorGroupHoldTheirPartOfTheWeights) {
  const model::StepLimits limits = least_limits(job_of(4096, 100), model_config(), kFour, true);
  const std::int64_t all = model::bytes_needed(model_config(), limits, kFour).weights;
  const std::int64_t part = model::gpu_bytes_needed(model_config(), limits, kFour).weights;
  EXPECT_GE(part, all / 2);
  EXPECT_LE(part, all / 2 + all / 20);
}

TEST(GpuLimits, WhatDoesNotFitIsRefusedWithTheSums) {
  const Job job = job_of(4096, 100);
  const std::string message =
      test::message_of([&] { gpu_step_limits(job, model_config(), kOne, {.ranks = 4, .free = kGiB}); });
  EXPECT_NE(message.find("the GPU has 1.0 GiB free for 4 ranks; a rank needs at least"), std::string::npos)
      << message;
  EXPECT_NE(message.find("parallel.tensor"), std::string::npos) << message;
}

// 1 GiB of weights and, for every rank, 256 MiB of cache and buffers.
constexpr model::MemoryNeed kNeed{.weights = kGiB, .kv_cache = 192 << 20, .step_buffers = 64 << 20};

std::string refusal(int ranks, std::uint64_t memory, std::optional<std::uint64_t> shared) {
  Machine machine;
  machine.memory_bytes = memory;
  machine.shared_bytes = shared;
  try {
    check_memory(kNeed, ranks, machine);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "";
}

TEST(Memory, WeightsCountOncePerMachine) {
  EXPECT_EQ(refusal(4, 2 * kGiB, {}), "");
  const std::string message = refusal(4, 2 * kGiB - 1, {});
  EXPECT_NE(
      message.find("2.0 GiB: 1.0 GiB of weights once, 192.0 MiB of KV cache and 64.0 MiB of buffers for "
                   "each of 4 ranks"),
      std::string::npos)
      << message;
  EXPECT_NE(refusal(1, kGiB, {}).find("1.2 GiB: 1.0 GiB of weights, "), std::string::npos)
      << refusal(1, kGiB, {});
}

TEST(Memory, WeightsOfSeveralRanksMustFitIntoSharedMemory) {
  EXPECT_EQ(refusal(2, 8 * kGiB, kGiB), "");
  EXPECT_EQ(refusal(1, 8 * kGiB, 0), "") << "one rank keeps them for itself";
  const std::string message = refusal(2, 8 * kGiB, 64 << 20);
  EXPECT_NE(message.find("share 1.0 GiB of weights in /dev/shm, where 64.0 MiB is free"), std::string::npos)
      << message;
  EXPECT_NE(message.find("--shm-size"), std::string::npos) << message;
}

}  // namespace
}  // namespace nightshift::runtime
