// SPDX-License-Identifier: Apache-2.0
#include "model/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "model/random.h"

namespace nightshift::model {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A sequence that has just computed its prompt, and possibly some output.
struct Given {
  SamplingParams params;
  std::vector<TokenId> tokens{0};
  int prompt_tokens = 1;
  std::uint64_t key = 1;

  PlannedSequence planned() const {
    PlannedSequence s;
    s.id = 77;
    s.num_tokens = static_cast<int>(tokens.size());
    s.samples = true;
    s.prompt_tokens = prompt_tokens;
    s.tokens = tokens;
    s.sampling = &params;
    s.random_key = key;
    return s;
  }
};

SampledToken sample(const std::vector<float>& logits, const Given& given, std::vector<TokenId> stops = {},
                    int vocab = 0) {
  Sampler::Scratch scratch;
  return Sampler(vocab != 0 ? vocab : static_cast<int>(logits.size()), std::move(stops))
      .sample(logits, given.planned(), scratch);
}

// How often each token comes out over many keys.
std::map<TokenId, int> histogram(const std::vector<float>& logits, Given given, int count) {
  std::map<TokenId, int> seen;
  const Sampler sampler(static_cast<int>(logits.size()), {});
  Sampler::Scratch scratch;
  for (int i = 0; i < count; ++i) {
    given.key = static_cast<std::uint64_t>(i) * 7919 + 13;
    ++seen[sampler.sample(logits, given.planned(), scratch).token];
  }
  return seen;
}

std::vector<float> spread(int vocab, double scale, std::uint64_t seed) {
  std::vector<float> logits(static_cast<std::size_t>(vocab));
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = static_cast<float>((uniform(seed, i) - 0.5) * scale);
  return logits;
}

// The plain way, in double, with a full sort: which tokens are kept and with what probability.
std::map<TokenId, double> reference(const std::vector<float>& logits, const SamplingParams& p) {
  std::vector<std::pair<double, TokenId>> order;
  const double top = *std::max_element(logits.begin(), logits.end());
  for (std::size_t i = 0; i < logits.size(); ++i)
    order.emplace_back(std::exp((static_cast<double>(logits[i]) - top) / p.temperature),
                       static_cast<TokenId>(i));
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::erase_if(order, [&](const auto& entry) { return entry.first < p.min_p; });
  if (p.top_k > 0 && order.size() > static_cast<std::size_t>(p.top_k))
    order.resize(static_cast<std::size_t>(p.top_k));
  double total = 0.0, taken = 0.0;
  for (const auto& entry : order) total += entry.first;
  std::map<TokenId, double> kept;
  for (const auto& [weight, id] : order) {
    if (!kept.empty() && taken >= p.top_p * total) break;
    kept[id] = weight;
    taken += weight;
  }
  for (auto& [id, weight] : kept) weight /= taken;
  return kept;
}

TEST(Greedy, TakesTheLowestIdOnTies) {
  EXPECT_EQ(sample({1, 3, 2, 3}, {}).token, 1);
  EXPECT_EQ(sample({-5, -5, -5}, {}).token, 0);
  std::vector<float> wide(50000, 0.0F);
  wide[49999] = wide[31] = 1.0F;
  EXPECT_EQ(sample(wide, {}).token, 31);
}

TEST(Greedy, NeverTakesPadding) {
  EXPECT_EQ(sample({1, 2, 9, 9}, {}, {}, 2).token, 1);
}

TEST(Unusable, LogitsFailTheSequence) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const double temperature : {0.0, 1.0}) {
    Given given;
    given.params.temperature = temperature;
    std::vector<float> logits(1000, 0.5F);
    EXPECT_FALSE(sample(logits, given).failed());
    for (const std::size_t at : {0, 17, 999}) {
      std::vector<float> bad = logits;
      bad[at] = nan;
      EXPECT_TRUE(sample(bad, given).failed());
      bad[at] = kInfinity;
      EXPECT_TRUE(sample(bad, given).failed());
      bad[at] = -kInfinity;  // simply never taken
      EXPECT_FALSE(sample(bad, given).failed());
    }
    EXPECT_TRUE(sample(std::vector<float>(5, -kInfinity), given).failed());
    EXPECT_FALSE(sample({0, 1, nan}, given, {}, 2).failed()) << "padding does not count";
    EXPECT_EQ(sample({nan}, given).id, 77u);
  }
}

TEST(MinTokens, MasksStopIds) {
  Given given;
  given.params.min_tokens = 2;
  given.params.stop_token_ids = {2};
  const std::vector<float> logits{1, 9, 8, 7};
  EXPECT_EQ(sample(logits, given, {1}).token, 3);
  given.tokens = {0, 3};
  EXPECT_EQ(sample(logits, given, {1}).token, 3);
  given.tokens = {0, 3, 3};  // two tokens are out: free to stop
  EXPECT_EQ(sample(logits, given, {1}).token, 1);
  given.tokens = {0};
  EXPECT_TRUE(sample({1, 2}, given, {0, 1}).failed()) << "nothing left to choose";
}

TEST(Penalties, FollowTheirDefinitions) {
  Given given;
  given.tokens = {0, 1, 2, 2};
  given.prompt_tokens = 2;  // output: 2, 2
  given.params.logprobs = 0;
  // Repetition touches prompt and output, dividing positive and multiplying negative logits.
  given.params.repetition_penalty = 2.0;
  EXPECT_EQ(sample({3.0F, 3.0F, 3.0F, 1.6F}, given).token, 3);
  EXPECT_EQ(sample({-1.0F, -1.0F, -1.0F, -1.9F}, given).token, 3);
  EXPECT_EQ(sample({3.0F, 3.0F, 3.0F, 1.4F}, given).token, 0);
  // Presence and frequency touch the output alone.
  given.params.repetition_penalty = 1.0;
  given.params.presence_penalty = 1.0;
  EXPECT_EQ(sample({0.0F, 0.5F, 2.0F, 0.9F}, given).token, 2);
  EXPECT_EQ(sample({0.0F, 1.5F, 2.0F, 0.9F}, given).token, 1);
  given.params.frequency_penalty = 0.5;  // twice: one more off
  EXPECT_EQ(sample({0.0F, 0.1F, 2.0F, 0.05F}, given).token, 1);
  EXPECT_EQ(sample({0.0F, 0.1F, 2.2F, 0.05F}, given).token, 2);
}

TEST(Penalties, LeaveNoTraceInTheScratch) {
  Given given;
  given.tokens = {0, 1, 2, 2};
  given.params.frequency_penalty = 1.0;
  Sampler::Scratch scratch;
  const Sampler sampler(4, {});
  const std::vector<float> logits{0, 0.5F, 2.5F, 0};
  for (int i = 0; i < 5; ++i) EXPECT_EQ(sampler.sample(logits, given.planned(), scratch).token, 2);
}

TEST(Logprobs, AreOfTheUnmodifiedDistribution) {
  Given given;
  given.params.logprobs = 3;
  given.params.temperature = 0.0;
  given.params.presence_penalty = 100.0;
  given.tokens = {0, 1};
  const std::vector<float> logits{0.0F, 2.0F, 1.0F, 1.0F};
  const SampledToken out = sample(logits, given);
  EXPECT_EQ(out.token, 2);
  const double total = std::log(std::exp(0.0) + std::exp(2.0) + 2 * std::exp(1.0));
  EXPECT_NEAR(out.logprob, 1.0 - total, 1e-6);
  ASSERT_EQ(out.top.size(), 3u);
  EXPECT_EQ(out.top[0].token, 1);
  EXPECT_NEAR(out.top[0].logprob, 2.0 - total, 1e-6);
  EXPECT_EQ(out.top[1].token, 2);
  EXPECT_EQ(out.top[2].token, 3);
  given.params.logprobs = 20;  // more than there are
  EXPECT_EQ(sample(logits, given).top.size(), 4u);
}

TEST(Temperature, ZeroAndNearlyZeroAreGreedy) {
  Given given;
  given.params.temperature = 1e-6;
  EXPECT_EQ(sample({1, 1.001F, 1}, given).token, 1);
}

TEST(Sampling, SameKeySameToken) {
  Given given;
  given.params.temperature = 1.0;
  const auto logits = spread(5000, 4.0, 3);
  const TokenId first = sample(logits, given).token;
  EXPECT_EQ(sample(logits, given).token, first);
  EXPECT_GT(histogram(logits, given, 200).size(), 100u) << "other keys give other tokens";
}

struct Truncation {
  double temperature, top_p, min_p;
  std::int64_t top_k;
  double scale;
  int vocab;
};

class Truncated : public testing::TestWithParam<Truncation> {};

// Exactly the right tokens come out, with the right frequencies (each within five standard deviations).
TEST_P(Truncated, MatchesTheReference) {
  const Truncation t = GetParam();
  Given given;
  given.params.temperature = t.temperature;
  given.params.top_p = t.top_p;
  given.params.min_p = t.min_p;
  given.params.top_k = t.top_k;
  const auto logits = spread(t.vocab, t.scale, 11);
  const auto kept = reference(logits, given.params);
  constexpr int kDraws = 20000;
  const auto seen = histogram(logits, given, kDraws);
  for (const auto& [id, count] : seen) EXPECT_TRUE(kept.contains(id)) << id;
  double chi = 0.0;
  for (const auto& [id, probability] : kept) {
    const auto it = seen.find(id);
    const double expected = probability * kDraws, got = it == seen.end() ? 0.0 : it->second;
    chi += (got - expected) * (got - expected) / expected;
    if (expected > 30) {
      EXPECT_NEAR(got, expected, 5 * std::sqrt(expected)) << id;
    }
  }
  const double freedom = static_cast<double>(kept.size()) - 1;
  EXPECT_LT(chi, freedom + 6 * std::sqrt(2 * freedom + 1));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Truncated,
    testing::Values(Truncation{1.0, 1.0, 0.0, 0, 8.0, 40}, Truncation{0.7, 1.0, 0.0, 5, 8.0, 300},
                    Truncation{1.0, 0.8, 0.0, 0, 8.0, 300}, Truncation{1.3, 0.9, 0.0, 40, 20.0, 300},
                    Truncation{1.0, 1.0, 0.3, 0, 8.0, 60}, Truncation{2.0, 0.7, 0.05, 0, 90.0, 3000},
                    Truncation{1.0, 0.95, 0.02, 7, 30.0, 5000}, Truncation{1.0, 0.0, 0.0, 0, 8.0, 100},
                    Truncation{1.0, 1.0, 0.0, 1, 8.0, 100}, Truncation{0.5, 1.0, 0.0, 0, 60.0, 7000},
                    Truncation{1.0, 0.6, 0.0, 0, 0.0, 16}));

TEST(Truncated, TopKTakesTheLowestIdsOnTies) {
  Given given;
  given.params.temperature = 1.0;
  given.params.top_k = 2;
  const auto seen = histogram({0, 1, 1, 1}, given, 300);
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_TRUE(seen.contains(1) && seen.contains(2));
}

TEST(Sampling, ManyLikelyTokensDoNotSlowItDown) {  // a flat distribution: everything is a candidate
  Given given;
  given.params.temperature = 1.0;
  given.params.top_p = 0.5;
  const auto seen = histogram(std::vector<float>(150000, 1.0F), given, 5);
  for (const auto& [id, count] : seen) EXPECT_LT(id, 75001);
}

}  // namespace
}  // namespace nightshift::model
