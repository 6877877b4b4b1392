// SPDX-License-Identifier: Apache-2.0
// Prefill held back for bulk steps, and the end of the job, on mixes small enough to follow by hand.
#include <gtest/gtest.h>

#include "core/check.h"
#include "scheduler/scheduler.h"

namespace nightshift::scheduler {
namespace {

Options grouped(int group, int patience = 64) {
  Options options;
  options.token_budget = 64;
  options.max_sequences = 12;
  options.kv_blocks = 200;
  options.max_context = 1000;
  options.tile = 1;
  options.watermark = 0.0;
  options.prefill_group = group;
  options.prefill_patience = patience;
  return options;
}

// Prompts of different families share nothing.
void add(Scheduler& scheduler, SequenceId id, int prompt_tokens, TokenId family,
         std::int64_t max_tokens = 100) {
  Request r;
  r.id = id;
  for (int i = 0; i < prompt_tokens; ++i) r.prompt.push_back(1000 * family + i);
  r.params.max_tokens = max_tokens;
  const auto refused = scheduler.add(std::move(r));
  ASSERT_FALSE(refused) << *refused;
}

// Runs a step and names its prefills, "id:tokens".
std::string step(Scheduler& scheduler) {
  const BatchPlan& plan = scheduler.plan();
  StepResult result{.step = plan.step, .tokens = {}, .compute_seconds = 0.0};
  std::string prefills;
  for (std::size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlannedSequence& s = plan.sequences[i];
    if (static_cast<int>(i) >= plan.decode_tokens)
      prefills += fmt::format("{}{}:{}", prefills.empty() ? "" : " ", s.id, s.num_tokens);
    if (s.samples) result.tokens.push_back({.id = s.id, .token = 7, .logprob = 0.0F, .top = {}});
  }
  scheduler.commit(result);
  scheduler.audit();
  return prefills;
}

// Sequences 1 to 6, which from now on decode.
void start_six(Scheduler& scheduler) {
  for (SequenceId id = 1; id <= 6; ++id) add(scheduler, id, 4, static_cast<TokenId>(id));
  ASSERT_EQ(step(scheduler), "1:4 2:4 3:4 4:4 5:4 6:4") << "nothing decodes, so nothing waits";
}

TEST(PrefillGroup, WaitsUntilEnoughTokensAreAtHand) {
  Scheduler scheduler(grouped(10));
  start_six(scheduler);
  add(scheduler, 7, 4, 7);
  EXPECT_EQ(step(scheduler), "");
  EXPECT_EQ(step(scheduler), "");
  add(scheduler, 8, 6, 8);
  EXPECT_EQ(step(scheduler), "7:4 8:6");
  EXPECT_EQ(scheduler.counters().held_steps, 2U);
}

TEST(PrefillGroup, PatienceEndsAndBeginsAnew) {
  Scheduler scheduler(grouped(10, 3));
  start_six(scheduler);
  for (const SequenceId id : {7U, 8U}) {
    add(scheduler, id, 4, static_cast<TokenId>(id));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(step(scheduler), "");
    EXPECT_EQ(step(scheduler), fmt::format("{}:4", id));
  }
  EXPECT_EQ(scheduler.counters().held_steps, 6U);
}

TEST(PrefillGroup, NeverLeavesMoreThanAQuarterOfThePlacesEmpty) {
  Scheduler scheduler(grouped(1000));
  start_six(scheduler);
  add(scheduler, 7, 1, 7);
  add(scheduler, 8, 1, 8);
  EXPECT_EQ(step(scheduler), "") << "2 of 8 may wait";
  add(scheduler, 9, 1, 9);
  EXPECT_EQ(step(scheduler), "7:1 8:1 9:1") << "3 of 9 may not";
}

TEST(PrefillGroup, PlacesThatTheKvCacheCannotFillAreNotEmpty) {
  Options options = grouped(1000);
  options.max_sequences = 100;
  options.kv_blocks = 8;  // 6 of them in use
  options.max_context = 128;
  Scheduler scheduler(options);
  start_six(scheduler);
  for (SequenceId id = 7; id < 50; ++id) add(scheduler, id, 4, static_cast<TokenId>(id));
  EXPECT_EQ(step(scheduler), "") << "2 could run, 41 could not";
}

TEST(PrefillGroup, ABudgetThatHoldsNoMoreIsEnough) {
  Options options = grouped(1000);
  options.token_budget = 24;
  Scheduler scheduler(options);
  start_six(scheduler);
  add(scheduler, 7, 41, 7);
  EXPECT_EQ(step(scheduler), "7:18");
  EXPECT_EQ(step(scheduler), "7:18");
  EXPECT_EQ(step(scheduler), "") << "a started prefill waits as well: 5 of 18 tokens";
  add(scheduler, 8, 13, 8);
  EXPECT_EQ(step(scheduler), "7:5 8:13");
}

TEST(PrefillGroup, CountsNoTokensThatThePrefixCacheHolds) {
  Scheduler scheduler(grouped(20));
  start_six(scheduler);
  add(scheduler, 7, 33, 7);
  EXPECT_EQ(step(scheduler), "7:33");
  add(scheduler, 8, 33, 7);
  EXPECT_EQ(step(scheduler), "") << "32 of 33 tokens are cached";
  add(scheduler, 9, 51, 7);
  EXPECT_EQ(step(scheduler), "8:1 9:19");
}

TEST(PrefillGroup, CountsOnceWhatAStepSharesWithinItself) {
  for (const bool share : {false, true}) {
    Options options = grouped(40);
    options.share_within_step = share;
    options.token_budget = 128;
    Scheduler scheduler(options);
    start_six(scheduler);
    add(scheduler, 7, 33, 7);
    add(scheduler, 8, 33, 7);
    EXPECT_EQ(step(scheduler), share ? "" : "7:33 8:33");
  }
}

TEST(PrefillGroup, WaitsForNothingThatCannotCome) {
  Scheduler scheduler(grouped(10));
  start_six(scheduler);
  add(scheduler, 7, 4, 7);
  EXPECT_EQ(step(scheduler), "");
  scheduler.close();
  EXPECT_EQ(step(scheduler), "7:4");
}

TEST(PrefillGroup, WaitsForPlacesAlsoWhenClosed) {
  Options options = grouped(8);
  options.max_sequences = 7;
  Scheduler scheduler(options);
  for (SequenceId id = 1; id <= 6; ++id) add(scheduler, id, 4, static_cast<TokenId>(id), id == 1 ? 4 : 100);
  step(scheduler);
  add(scheduler, 7, 4, 7);
  add(scheduler, 8, 4, 8);
  scheduler.close();
  EXPECT_EQ(step(scheduler), "");
  EXPECT_EQ(step(scheduler), "");
  EXPECT_EQ(step(scheduler), "") << "its end frees the place of sequence 1";
  EXPECT_EQ(step(scheduler), "7:4 8:4");
}

TEST(PrefillGroup, RefusesNegativeLimits) {
  EXPECT_THROW(Scheduler(grouped(-1)), BadInput);
  EXPECT_THROW(Scheduler(grouped(10, -1)), BadInput);
}

TEST(Close, MarksTheTail) {
  Options options = grouped(0);
  options.token_budget = 8;
  Scheduler scheduler(options);
  const auto tail = [&scheduler] {
    const BatchPlan& plan = scheduler.plan();
    const bool marked = plan.tail;
    StepResult result{.step = plan.step, .tokens = {}, .compute_seconds = 0.0};
    for (const PlannedSequence& s : plan.sequences)
      if (s.samples) result.tokens.push_back({.id = s.id, .token = 7, .logprob = 0.0F, .top = {}});
    scheduler.commit(result);
    return marked;
  };
  add(scheduler, 1, 4, 1);
  EXPECT_FALSE(tail());
  EXPECT_FALSE(tail()) << "a decode, but more may come";
  add(scheduler, 2, 13, 2, 2);
  add(scheduler, 3, 1, 3);
  EXPECT_FALSE(tail());  // 1:1 2:7, 3 waits
  scheduler.close();
  EXPECT_FALSE(scheduler.wants_more());
  EXPECT_FALSE(tail());  // 1:1 2:6 3:1
  EXPECT_TRUE(tail());
  EXPECT_TRUE(tail()) << "2 has ended";
}

TEST(Close, NothingMayBeAddedAfterwards) {
  Scheduler scheduler(grouped(0));
  scheduler.close();
  Request r;
  r.id = 1;
  r.prompt = {1};
  EXPECT_THROW((void)scheduler.add(std::move(r)), Error);
}

}  // namespace
}  // namespace nightshift::scheduler
