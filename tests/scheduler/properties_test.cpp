// SPDX-License-Identifier: Apache-2.0
// Random request mixes under random limits. Driver checks every plan, FakeExecutor every KV slot that is
// read, and the answers must be those that the definitions give, whatever the limits.
#include <fmt/format.h>

#include <random>

#include "scheduler/driver.h"

namespace nightshift::scheduler::test {
namespace {

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  int between(int low, int high) {  // both included; the same on every standard library
    return low + static_cast<int>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(int percent) { return between(1, 100) <= percent; }
  template <typename T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[between(0, static_cast<int>(values.size()) - 1)];
  }

 private:
  std::mt19937_64 engine_;
};

FakeModel random_model(Dice& dice) {
  return {.vocab = dice.one_of({3, 50}),
          .eos_every = dice.one_of({0, 5, 30}),
          .stop_every = dice.one_of({0, 0, 25})};
}

// Prompts that share beginnings, some asked for several times (n > 1), with all the ways to end.
std::vector<Request> random_requests(Dice& dice, int max_context) {
  std::vector<std::vector<TokenId>> stems(3);
  for (auto& stem : stems)
    for (int left = dice.between(0, max_context - 1); left > 0; --left) stem.push_back(dice.between(1, 4));
  std::vector<Request> requests;
  const int prompts = dice.between(1, 24);
  for (int prompt = 0; prompt < prompts; ++prompt) {
    Request request;
    const auto& stem = stems[static_cast<std::size_t>(dice.between(0, 2))];
    const int shared = dice.between(0, static_cast<int>(stem.size()));
    request.prompt.assign(stem.begin(), stem.begin() + shared);
    const int own = dice.between(shared == 0 ? 1 : 0, std::max(1, std::min(40, max_context - 1 - shared)));
    for (int i = 0; i < own && static_cast<int>(request.prompt.size()) < max_context - 1; ++i)
      request.prompt.push_back(dice.between(1, 4));
    request.params.max_tokens = dice.one_of({1, 2, 17, 60, 1000});
    request.params.min_tokens = dice.one_of({0, 0, 3, 20});
    request.params.ignore_eos = dice.chance(20);
    if (dice.chance(30)) request.params.stop_token_ids = {dice.between(1, 49)};
    for (int sample = dice.chance(25) ? 3 : 1; sample > 0; --sample) {
      Request copy = request;
      copy.id = 1000 + requests.size() * 7;
      copy.random_key = static_cast<std::uint64_t>(dice.between(0, 1 << 30));
      requests.push_back(std::move(copy));
    }
  }
  return requests;
}

Options random_options(Dice& dice, int max_context) {
  const int least = blocks_for(max_context);
  Options options;
  options.max_context = max_context;
  options.kv_blocks = least + dice.one_of({0, 0, 1, 3, 10, 200});
  options.token_budget = dice.one_of({1, 2, 7, 16, 100, 128, 300, 512, 4096});
  options.max_sequences = dice.one_of({1, 2, 3, 8, 64});
  options.prefix_cache = dice.chance(70);
  options.share_within_step = dice.chance(30);
  options.watermark = dice.one_of({0.0, 0.01, 0.3});
  options.eos_ids = {kEos};
  options.tile = dice.one_of({1, 8, 128});
  options.pipeline_depth = dice.one_of({1, 1, 2, 2, 3});
  options.prefill_group = dice.one_of({0, 1, 20, 100, 10000});
  options.prefill_patience = dice.one_of({0, 1, 7, 64});
  return options;
}

std::string describe(const Options& o) {
  return fmt::format(
      "context {} blocks {} budget {} sequences {} cache {} share {} watermark {} tile {} depth {} "
      "group {} patience {}",
      o.max_context, o.kv_blocks, o.token_budget, o.max_sequences, o.prefix_cache, o.share_within_step,
      o.watermark, o.tile, o.pipeline_depth, o.prefill_group, o.prefill_patience);
}

struct Mix {
  FakeModel model;
  int max_context = 0;
  std::vector<Request> requests;
  std::map<SequenceId, Answer> expected;
};

Mix random_mix(Dice& dice) {
  Mix mix{.model = random_model(dice),
          .max_context = dice.one_of({5, 40, 150, 400}),
          .requests = {},
          .expected = {}};
  mix.requests = random_requests(dice, mix.max_context);
  const Options rules{.max_context = mix.max_context, .eos_ids = {kEos}};
  for (const Request& request : mix.requests)
    mix.expected[request.id] = expected_answer(mix.model, request, rules);
  return mix;
}

struct Totals {
  Counters sum;
  void add(const Counters& c) {
    sum.preemptions += c.preemptions;
    sum.skipped_decodes += c.skipped_decodes;
    sum.cache_hit_tokens += c.cache_hit_tokens;
    sum.dropped_tokens += c.dropped_tokens;
    sum.evictions += c.evictions;
    sum.recomputed_tokens += c.recomputed_tokens;
    sum.held_steps += c.held_steps;
  }
};

TEST(SchedulerProperties, AnswersDoNotDependOnLimits) {
  Totals totals;
  for (std::uint64_t seed = 0; seed < 1500 && !HasFailure(); ++seed) {
    Dice dice(seed);
    const Mix mix = random_mix(dice);
    for (int variant = 0; variant < 3; ++variant) {
      const Options options = random_options(dice, mix.max_context);
      SCOPED_TRACE(fmt::format("seed {} variant {}: {}", seed, variant, describe(options)));
      Driver driver(mix.model, options);
      driver.closes = dice.chance(50);
      const Outcome outcome = driver.run(mix.requests);
      EXPECT_EQ(outcome.answers, mix.expected);
      totals.add(outcome.counters);
    }
  }
  // The mixes must reach the corners that they are there for.
  EXPECT_GT(totals.sum.preemptions, 1000U);
  EXPECT_GT(totals.sum.skipped_decodes, 1000U);
  EXPECT_GT(totals.sum.cache_hit_tokens, 100000U);
  EXPECT_GT(totals.sum.evictions, 10000U);
  EXPECT_GT(totals.sum.recomputed_tokens, 10000U);
  EXPECT_GT(totals.sum.dropped_tokens, 1000U);
  EXPECT_GT(totals.sum.held_steps, 1000U);
}

TEST(SchedulerProperties, SameInputsSamePlans) {
  for (std::uint64_t seed = 0; seed < 300 && !HasFailure(); ++seed) {
    Dice dice(10000 + seed);
    const Mix mix = random_mix(dice);
    const Options options = random_options(dice, mix.max_context);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(options)));
    Driver first(mix.model, options);
    Driver second(mix.model, options);
    const Outcome a = first.run(mix.requests);
    const Outcome b = second.run(mix.requests);
    EXPECT_EQ(a.plan_hash, b.plan_hash);
    EXPECT_EQ(a.steps, b.steps);
  }
}

// Whatever a group of one token or no patience could wait for runs at once.
TEST(SchedulerProperties, NothingWaitsWithoutAGroup) {
  for (std::uint64_t seed = 0; seed < 300 && !HasFailure(); ++seed) {
    Dice dice(40000 + seed);
    const Mix mix = random_mix(dice);
    Options options = random_options(dice, mix.max_context);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(options)));
    std::set<std::uint64_t> plans;
    for (const auto& [group, patience] : {std::pair{0, 64}, {1, 64}, {10000, 0}}) {
      options.prefill_group = group;
      options.prefill_patience = patience;
      Driver driver(mix.model, options);
      const Outcome outcome = driver.run(mix.requests);
      EXPECT_EQ(outcome.counters.held_steps, 0U);
      plans.insert(outcome.plan_hash);
    }
    EXPECT_EQ(plans.size(), 1U);
  }
}

TEST(SchedulerProperties, CancelledSequencesLeaveNoTrace) {
  int cancelled = 0;
  for (std::uint64_t seed = 0; seed < 1000 && !HasFailure(); ++seed) {
    Dice dice(20000 + seed);
    const Mix mix = random_mix(dice);
    const Options options = random_options(dice, mix.max_context);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, describe(options)));
    Driver driver(mix.model, options);
    for (const Request& request : mix.requests)
      if (dice.chance(40)) driver.cancel_after.emplace(dice.between(0, 60), request.id);
    const Outcome outcome = driver.run(mix.requests);
    EXPECT_EQ(outcome.answers.size(), mix.requests.size());
    for (const auto& [id, answer] : outcome.answers) {
      const Answer& whole = mix.expected.at(id);
      if (answer.reason != FinishReason::cancelled) {
        EXPECT_EQ(answer, whole);
        continue;
      }
      ++cancelled;
      ASSERT_LT(answer.output.size(), whole.output.size());
      EXPECT_TRUE(std::equal(answer.output.begin(), answer.output.end(), whole.output.begin()));
    }
  }
  EXPECT_GT(cancelled, 1000);
}

TEST(SchedulerProperties, ResumesFromProgress) {
  int resumed = 0;
  for (std::uint64_t seed = 0; seed < 600 && !HasFailure(); ++seed) {
    Dice dice(30000 + seed);
    const Mix mix = random_mix(dice);
    const Options before = random_options(dice, mix.max_context);
    const Options after = random_options(dice, mix.max_context);
    SCOPED_TRACE(fmt::format("seed {}: {} / {}", seed, describe(before), describe(after)));

    Driver first(mix.model, before);
    const int crash_at = dice.between(0, 40);
    std::map<SequenceId, std::vector<TokenId>> checkpoint;
    first.crash = [&](int step) {
      if (step != crash_at) return false;
      for (const Progress& p : first.scheduler().progress())
        checkpoint[p.id] = {p.output.begin(), p.output.end()};
      return true;
    };
    Outcome outcome = first.run(mix.requests);
    std::vector<Request> rest;
    for (const Request& request : mix.requests) {
      if (outcome.answers.contains(request.id)) continue;
      rest.push_back(request);
      rest.back().output = checkpoint[request.id];
      resumed += !rest.back().output.empty();
    }
    Driver second(mix.model, after);
    for (auto& [id, answer] : second.run(rest).answers)
      EXPECT_TRUE(outcome.answers.emplace(id, answer).second);
    EXPECT_EQ(outcome.answers, mix.expected);
  }
  EXPECT_GT(resumed, 500);
}

}  // namespace
}  // namespace nightshift::scheduler::test
