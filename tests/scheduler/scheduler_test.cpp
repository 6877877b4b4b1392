// SPDX-License-Identifier: Apache-2.0
// The rules one by one, on mixes small enough to follow by hand.
#include "scheduler/scheduler.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include "core/check.h"

namespace nightshift::scheduler {
namespace {

constexpr TokenId kEos = 0;

Options small() {
  Options options;
  options.token_budget = 16;
  options.max_sequences = 8;
  options.kv_blocks = 100;
  options.max_context = 1000;
  options.eos_ids = {kEos};
  options.tile = 1;
  options.watermark = 0.0;
  return options;
}

Request request(SequenceId id, int prompt_tokens, std::int64_t max_tokens = 100, TokenId first = 1) {
  Request r;
  r.id = id;
  for (int i = 0; i < prompt_tokens; ++i) r.prompt.push_back(first + i);
  r.params.max_tokens = max_tokens;
  return r;
}

// The same token for every sequence that samples.
StepResult answer(const BatchPlan& plan, TokenId token = 7) {
  StepResult result{.step = plan.step, .tokens = {}, .compute_seconds = 0.0};
  for (const PlannedSequence& s : plan.sequences)
    if (s.samples) result.tokens.push_back({.id = s.id, .token = token, .logprob = 0.0F, .top = {}});
  return result;
}

// "id:tokens", "*" where it samples.
std::string text(const BatchPlan& plan) {
  std::string all;
  for (const PlannedSequence& s : plan.sequences)
    all += fmt::format("{}{}:{}{}", all.empty() ? "" : " ", s.id, s.num_tokens, s.samples ? "*" : "");
  return all;
}

std::string step(Scheduler& scheduler, TokenId token = 7) {
  const BatchPlan& plan = scheduler.plan();
  const std::string shown = text(plan);
  if (!plan.empty()) scheduler.commit(answer(plan, token));
  scheduler.audit();
  return shown;
}

void add(Scheduler& scheduler, Request r) {
  const auto refused = scheduler.add(std::move(r));
  ASSERT_FALSE(refused) << *refused;
}

TEST(Scheduler, DecodesThenStartedPrefillsThenNewRequests) {
  Scheduler scheduler(small());
  add(scheduler, request(1, 4));
  add(scheduler, request(2, 30, 100, 50));
  add(scheduler, request(3, 4, 100, 90));
  EXPECT_EQ(step(scheduler), "1:4* 2:12");
  EXPECT_EQ(step(scheduler), "1:1* 2:15");
  EXPECT_EQ(step(scheduler), "1:1* 2:3* 3:4*");
  EXPECT_EQ(step(scheduler), "1:1* 2:1* 3:1*");
}

TEST(Scheduler, DecodesExceedTheBudgetAndPrefillWaits) {
  Options options = small();
  options.token_budget = 2;
  Scheduler scheduler(options);
  for (SequenceId id = 1; id <= 3; ++id) add(scheduler, request(id, 1, 4, 10 * static_cast<TokenId>(id)));
  EXPECT_EQ(step(scheduler), "1:1* 2:1*");
  EXPECT_EQ(step(scheduler), "1:1* 2:1*");
  EXPECT_EQ(step(scheduler), "1:1* 2:1*");
  EXPECT_EQ(step(scheduler), "1:1* 2:1*");
  EXPECT_EQ(step(scheduler), "3:1*");
}

TEST(Scheduler, BudgetIsRoundedDownToTiles) {
  Options options = small();
  options.token_budget = 300;
  options.tile = 128;
  Scheduler scheduler(options);
  add(scheduler, request(1, 600));
  EXPECT_EQ(step(scheduler), "1:256");
  EXPECT_EQ(step(scheduler), "1:256");
  EXPECT_EQ(step(scheduler), "1:88*") << "a prompt's end is not padded with nothing";
  add(scheduler, request(2, 600, 100, 5000));
  EXPECT_EQ(step(scheduler), "1:1* 2:255");
  EXPECT_EQ(scheduler.counters().padding_tokens, 40U);
}

TEST(Scheduler, TilesNeverStarveAPrefill) {
  Options options = small();
  options.token_budget = 130;
  options.tile = 128;
  options.max_sequences = 200;
  options.kv_blocks = 1000;
  Scheduler scheduler(options);
  for (SequenceId id = 1; id <= 128; ++id) add(scheduler, request(id, 1, 100, static_cast<TokenId>(10 * id)));
  step(scheduler);
  add(scheduler, request(500, 50, 100, 90000));
  const std::string shown = step(scheduler);
  EXPECT_EQ(shown.substr(shown.size() - 5), "500:2") << "128 decodes fill the tile, the budget still has 2";
}

TEST(Scheduler, AdmissionStopsAtTheFirstThatDoesNotFit) {
  Options options = small();
  options.kv_blocks = 4;
  options.token_budget = 1000;
  options.max_context = 64;
  Scheduler scheduler(options);
  add(scheduler, request(1, 20));
  add(scheduler, request(2, 40, 100, 100));
  add(scheduler, request(3, 4, 100, 200));
  EXPECT_EQ(step(scheduler), "1:20*") << "2 needs three blocks of the two left, 3 must not overtake it";
  EXPECT_EQ(scheduler.waiting(), 2);
}

TEST(Scheduler, WatermarkBindsAdmissionOnly) {
  Options options = small();
  options.kv_blocks = 10;
  options.watermark = 0.2;
  options.token_budget = 1000;
  options.max_context = 160;
  Scheduler scheduler(options);
  add(scheduler,
      request(1, 159, 1));  // as long as the pool: with nobody running the watermark does not hold it up
  EXPECT_EQ(step(scheduler), "1:159*");
  add(scheduler, request(2, 96, 100, 300));  // 6 blocks
  add(scheduler, request(3, 33, 100, 500));  // 3 blocks would leave 1 free
  add(scheduler, request(4, 4, 100, 600));
  EXPECT_EQ(step(scheduler), "2:96*");
  EXPECT_EQ(step(scheduler), "2:1*");
  scheduler.cancel(3);
  EXPECT_EQ(step(scheduler), "2:1* 4:4*");
}

TEST(Scheduler, PreemptsTheLatestAndKeepsItsTokens) {
  Options options = small();
  options.kv_blocks = 4;
  options.max_context = 64;
  options.token_budget = 64;
  options.prefix_cache = false;
  Scheduler scheduler(options);
  add(scheduler, request(1, 30, 20));
  add(scheduler, request(2, 30, 5, 100));
  EXPECT_EQ(step(scheduler), "1:30* 2:30*");
  EXPECT_EQ(step(scheduler), "1:1* 2:1*");
  EXPECT_EQ(step(scheduler), "1:1* 2:1*");
  EXPECT_EQ(step(scheduler), "1:1*") << "position 32 needs a third block each";
  EXPECT_EQ(scheduler.counters().preemptions, 1U);
  ASSERT_EQ(scheduler.progress().size(), 2U);
  EXPECT_EQ(scheduler.progress()[1].output.size(), 3U) << "generated tokens are kept";
  scheduler.cancel(1);
  EXPECT_EQ(step(scheduler), "2:33*") << "prompt and output are one prefill";
  const BatchPlan& plan = scheduler.plan();
  const auto finished = scheduler.commit(answer(plan));
  ASSERT_EQ(finished.size(), 1U) << "max_tokens counts what was generated before the preemption";
  EXPECT_EQ(finished[0].output.size(), 5U);
  EXPECT_EQ(finished[0].reason, FinishReason::length);
  EXPECT_EQ(finished[0].preemptions, 1);
  EXPECT_EQ(finished[0].recomputed, 32);
  EXPECT_TRUE(scheduler.idle());
}

TEST(Scheduler, RefusesWhatCanNeverRun) {
  Scheduler scheduler(small());
  EXPECT_EQ(scheduler.add(request(1, 1001)), "too_long: 1001 > 1000 tokens");
  EXPECT_EQ(scheduler.add(request(1, 1000)), "too_long: 1000 tokens leave no room for an answer in 1000");
  EXPECT_EQ(scheduler.add(request(1, 0)), "empty_prompt: no tokens");
  EXPECT_EQ(scheduler.add(request(1, 5, 0)), "bad_params: max_tokens is 0, it must be at least 1");
  Request done = request(1, 5, 2);
  done.output = {7, 7};
  EXPECT_EQ(scheduler.add(std::move(done)), "bad_checkpoint: 2 tokens generated already, at most 2 wanted");
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(scheduler.add(request(1, 999)), std::nullopt);
  EXPECT_THROW(static_cast<void>(scheduler.add(request(1, 5))), Error) << "the same id twice";

  Options tight = small();
  tight.kv_blocks = 2;
  Scheduler little(tight);
  EXPECT_EQ(little.context_limit(), 32);
  EXPECT_EQ(little.add(request(1, 33)), "too_long: 33 > 32 tokens (the KV cache)");
}

TEST(Scheduler, RefusesBadOptions) {
  for (int Options::*field : {&Options::token_budget, &Options::max_sequences, &Options::kv_blocks,
                              &Options::max_context, &Options::tile, &Options::pipeline_depth}) {
    Options options = small();
    options.*field = 0;
    EXPECT_THROW(Scheduler{options}, BadInput);
  }
  Options options = small();
  options.watermark = 1.0;
  EXPECT_THROW(Scheduler{options}, BadInput);
}

// Ends a fresh sequence by sending tokens one after the other; what is returned is how it ended.
Finished feed(const SamplingParams& params, const std::vector<TokenId>& tokens, int prompt_tokens = 3) {
  Options options = small();
  options.token_budget = 1000;  // one token of the answer per step from the first on
  Scheduler scheduler(options);
  Request r = request(1, prompt_tokens);
  r.params = params;
  add(scheduler, std::move(r));
  for (const TokenId token : tokens) {
    const BatchPlan& plan = scheduler.plan();
    auto finished = scheduler.commit(answer(plan, token));
    if (!finished.empty()) return finished[0];
  }
  return {};
}

TEST(Scheduler, EndsOnEndTokensAndLength) {
  SamplingParams params;
  params.max_tokens = 4;
  EXPECT_EQ(feed(params, {7, kEos, 7}).reason, FinishReason::stop);
  EXPECT_EQ(feed(params, {7, kEos, 7}).output, (std::vector<TokenId>{7, kEos}));
  EXPECT_EQ(feed(params, {7, kEos, 7}).stop_token, kEos);
  EXPECT_EQ(feed(params, {7, 7, 7, 7}).reason, FinishReason::length);
  EXPECT_EQ(feed(params, {7, 7, 7, 7}).stop_token, -1);
  EXPECT_EQ(feed(params, {7, 7, 7, kEos}).reason, FinishReason::stop)
      << "an end token on the last place is a stop";
  EXPECT_EQ(feed(params, {7, 7, 7, 7}, 998).output.size(), 2U) << "max_context ends it";
  EXPECT_EQ(feed(params, {7, 7, 7}).reason, FinishReason::none);

  params.stop_token_ids = {9};
  EXPECT_EQ(feed(params, {9}).stop_token, 9);
  params.ignore_eos = true;
  EXPECT_EQ(feed(params, {kEos, kEos, 9, 7}).output.size(), 3U)
      << "ignore_eos leaves the prompt's own stop ids";
  params.ignore_eos = false;
  params.min_tokens = 2;
  EXPECT_EQ(feed(params, {kEos, 9, kEos}).output.size(), 3U) << "two tokens must come before the end counts";
}

TEST(Scheduler, StopsWhereTheCallerSays) {
  Scheduler scheduler(small());
  add(scheduler, request(1, 3));
  add(scheduler, request(2, 3));
  const BatchPlan& plan = scheduler.plan();
  const auto finished = scheduler.commit(answer(plan), std::vector<SequenceId>{2});
  ASSERT_EQ(finished.size(), 1U);
  EXPECT_EQ(finished[0].id, 2U);
  EXPECT_EQ(finished[0].reason, FinishReason::stop);
  EXPECT_EQ(finished[0].stop_token, -1);
  EXPECT_THROW(scheduler.commit(answer(scheduler.plan()), std::vector<SequenceId>{2}), Error);
}

TEST(Scheduler, RejectsResultsThatDoNotMatch) {
  Scheduler scheduler(small());
  EXPECT_THROW(scheduler.commit({}), Error) << "nothing is in flight";
  add(scheduler, request(1, 3));
  StepResult result = answer(scheduler.plan());
  EXPECT_THROW(scheduler.plan(), Error) << "one step at a time";
  result.step = 5;
  EXPECT_THROW(scheduler.commit(result), Error);
}

TEST(Scheduler, SamplesOfOnePromptShareItsFullBlocks) {
  Options options = small();
  options.token_budget = 512;
  Scheduler scheduler(options);
  add(scheduler, request(1, 50));
  EXPECT_EQ(step(scheduler), "1:50*");
  add(scheduler, request(2, 50));
  EXPECT_EQ(step(scheduler), "1:1* 2:2*") << "three full blocks are there, the rest is computed";
  add(scheduler, request(3, 48));
  const BatchPlan& plan = scheduler.plan();
  EXPECT_EQ(text(plan), "1:1* 2:1* 3:16*") << "the last token is never taken from the cache";
  EXPECT_EQ(plan.sequences[0].blocks[0], plan.sequences[1].blocks[0]);
  EXPECT_EQ(plan.sequences[0].blocks[1], plan.sequences[2].blocks[1]);
  EXPECT_NE(plan.sequences[0].blocks[2], plan.sequences[2].blocks[2]);
  EXPECT_EQ(scheduler.counters().cache_hit_tokens, 80U);
}

TEST(Scheduler, SharesWithinAStepOnlyWhenTold) {
  for (const bool within : {false, true}) {
    Options options = small();
    options.token_budget = 512;
    options.share_within_step = within;
    Scheduler scheduler(options);
    add(scheduler, request(1, 50));
    add(scheduler, request(2, 50));
    EXPECT_EQ(step(scheduler), within ? "1:50* 2:2*" : "1:50* 2:50*");
  }
}

TEST(Scheduler, OverlappedStepsCostOneSlotWhenTheEndComesLate) {
  Options options = small();
  options.pipeline_depth = 2;
  Scheduler scheduler(options);
  add(scheduler, request(1, 4, 2));
  add(scheduler, request(2, 4, 100, 50));
  const BatchPlan& first = scheduler.plan();
  EXPECT_EQ(text(first), "1:4* 2:4*");
  const BatchPlan& second = scheduler.plan();
  EXPECT_EQ(text(second), "1:1* 2:1*");
  EXPECT_EQ(second.sequences[0].tokens.size(), 4U) << "the token to come is not there yet";
  EXPECT_EQ(second.sequences[0].computed + second.sequences[0].num_tokens, 5);

  StepResult result = answer(first);
  result.tokens[1].token = kEos;
  const auto ended = scheduler.commit(result);
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_EQ(ended[0].id, 2U);
  EXPECT_TRUE(scheduler.plan().empty())
      << "1 ends by length with the step in flight, and that is known ahead";
  scheduler.audit();
  EXPECT_FALSE(scheduler.idle()) << "2 still holds blocks of the step in flight";
  EXPECT_EQ(scheduler.commit(answer(second)).size(), 1U);
  EXPECT_EQ(scheduler.counters().dropped_tokens, 1U);
  scheduler.audit();
  EXPECT_TRUE(scheduler.idle());
}

TEST(Scheduler, TakesUpACheckpoint) {
  Scheduler scheduler(small());
  Request r = request(1, 4, 5);
  r.output = {7, 8, 9};
  add(scheduler, std::move(r));
  const BatchPlan& plan = scheduler.plan();
  EXPECT_EQ(text(plan), "1:7*");
  EXPECT_EQ(plan.sequences[0].prompt_tokens, 4);
  EXPECT_EQ(plan.sequences[0].output_position(), 3);
  EXPECT_TRUE(scheduler.commit(answer(plan)).empty());
  const auto finished = scheduler.commit(answer(scheduler.plan()));
  ASSERT_EQ(finished.size(), 1U);
  EXPECT_EQ(finished[0].output, (std::vector<TokenId>{7, 8, 9, 7, 7}));
  EXPECT_EQ(finished[0].recomputed, 6) << "prompt and answer so far, but for the last token";
}

TEST(Scheduler, AsksForMoreBeforeItRunsDry) {
  Options options = small();
  options.max_sequences = 4;
  Scheduler scheduler(options);
  SequenceId id = 1;
  while (scheduler.wants_more()) add(scheduler, request(id++, 2));
  EXPECT_EQ(scheduler.waiting(), 5) << "four free places and one beyond";
  step(scheduler);
  EXPECT_EQ(scheduler.running(), 4);
  EXPECT_EQ(scheduler.waiting(), 1);
  EXPECT_FALSE(scheduler.wants_more());
}

TEST(Scheduler, ReportsStepsOfTheFirstRunAndToken) {
  Scheduler scheduler(small());
  add(scheduler, request(1, 40, 2));
  add(scheduler, request(2, 10, 1, 100));
  std::vector<Finished> all;
  while (!scheduler.idle())
    for (Finished& finished : scheduler.commit(answer(scheduler.plan()))) all.push_back(std::move(finished));
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].id, 1U);
  EXPECT_EQ(all[0].first_step, 0U);
  EXPECT_EQ(all[0].first_token, 2U);
  EXPECT_EQ(all[1].first_step, 2U);
  EXPECT_EQ(all[1].first_token, 3U);
}

// A million answers later the scheduler is no larger than after the first few.
TEST(Scheduler, MemoryDoesNotGrowWithTheJob) {
  Options options = small();
  options.token_budget = 2048;
  options.max_sequences = 64;
  options.kv_blocks = 512;
  Scheduler scheduler(options);
  SequenceId id = 0;
  const auto run_until = [&](SequenceId last) {
    while (id < last || !scheduler.idle()) {
      for (; id < last && scheduler.wants_more(); ++id)
        add(scheduler, request(id, 20, 3, static_cast<TokenId>(id)));
      scheduler.commit(answer(scheduler.plan()));
    }
    scheduler.audit();
    return mallinfo2().uordblks + mallinfo2().hblkhd;
  };
  const auto early = run_until(10'000);
  const auto late = run_until(1'000'000);
  EXPECT_LE(late, early + 4096);
}

}  // namespace
}  // namespace nightshift::scheduler
