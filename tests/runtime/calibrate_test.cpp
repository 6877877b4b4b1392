// SPDX-License-Identifier: Apache-2.0
#include "runtime/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

using parallel::Communicator;
using parallel::Layout;

void sleep_seconds(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

const model::StepLimits kLimits{
    .max_context = 2048, .max_query_tokens = 512, .max_sampled_rows = 128, .kv_blocks = 3000};

// A step of kind and size that no model or scheduler would refuse.
void expect_runnable(const BatchPlan& plan) {
  int tokens = 0;
  std::set<BlockId> blocks;
  for (const PlannedSequence& s : plan.sequences) {
    const int end = s.computed + s.num_tokens;
    tokens += s.num_tokens;
    EXPECT_GE(s.tokens.size(), static_cast<std::size_t>(end));
    EXPECT_GE(s.blocks.size() * kKvBlockTokens, static_cast<std::size_t>(end));
    EXPECT_LE(end, kLimits.max_context);
    for (const BlockId block : s.blocks) {
      EXPECT_TRUE(blocks.insert(block).second) << "two sequences write block " << block;
      EXPECT_LT(block, kLimits.kv_blocks);
    }
  }
  EXPECT_EQ(tokens, plan.query_tokens);
  EXPECT_LE(tokens, kLimits.max_query_tokens);
  EXPECT_LE(plan.sequences.size(), static_cast<std::size_t>(kLimits.max_sampled_rows));
}

TEST(CalibrateTest, TimesBothLayoutsAlikeOnAllRanks) {
  const auto world = Communicator::world();
  const auto samples = time_layouts(
      [&](const BatchPlan& plan, Layout layout) {
        expect_runnable(plan);
        if (layout == Layout::base) sleep_seconds(1e-3 * (1 + world.rank()));
      },
      kLimits, world);
  ASSERT_GT(samples.size(), 10u);
  double widest = 0.0;
  std::string text;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    EXPECT_EQ(samples[i].layout, i % 2 == 0 ? Layout::base : Layout::shift);
    EXPECT_EQ(samples[i].tokens, samples[i / 2 * 2].tokens);
    EXPECT_GT(samples[i].context, 0.0);
    if (samples[i].layout == Layout::base) {
      EXPECT_GE(samples[i].seconds, 1e-3 * world.size());  // the slowest rank's
    }
    widest = std::max(widest, samples[i].tokens);
    text += fmt::format("{} ", samples[i].seconds);
  }
  EXPECT_EQ(widest, 512.0);
  for (const std::string& other : world.gather(text)) EXPECT_EQ(other, text);
}

TEST(CalibrateTest, DoesNotGrowOnceStepsAreSlow) {
  const auto world = Communicator::world();
  int runs = 0;
  const auto samples = time_layouts(
      [&](const BatchPlan& plan, Layout) {
        ++runs;
        sleep_seconds(plan.query_tokens > 16 ? 0.6 : 1e-4);
      },
      kLimits, world);
  EXPECT_EQ(samples.back().tokens, 32.0);
  EXPECT_GE(samples.size(), 10u);
  EXPECT_EQ(std::count_if(samples.begin(), samples.end(), [](const auto& s) { return s.tokens > 16; }), 2);
}

TEST(CalibrateTest, AModelThatIsSlowAtOnceIsTimedAllTheSame) {
  const auto world = Communicator::world();
  const auto samples = time_layouts(
      [](const BatchPlan&, Layout) { sleep_seconds(0.11); },
      {.max_context = 40, .max_query_tokens = 32, .max_sampled_rows = 4, .kv_blocks = 40}, world);
  std::set<double> widths;
  for (const auto& sample : samples) widths.insert(sample.tokens);
  EXPECT_GE(widths.size(), 3u);
}

}  // namespace
}  // namespace nightshift::runtime
