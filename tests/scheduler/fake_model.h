// SPDX-License-Identifier: Apache-2.0
// A model without arithmetic: a token is a hash of everything before it, and what a KV slot holds is the hash
// of the prefix it stands for. An executor that reads a slot can therefore tell whether it holds what the
// sequence needs, which catches every block that is shared, reused or freed wrongly.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "scheduler/scheduler.h"

namespace nightshift::scheduler::test {

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {  // splitmix64's finisher over both
  std::uint64_t x = a * 0x9e3779b97f4a7c15ULL + b + 0x632be59bd9b4e019ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

inline constexpr TokenId kEos = 0;

struct FakeModel {
  int vocab = 50;
  int eos_every = 20;  // a token in so many is the end of sequence; 0: none
  int stop_every = 0;  // a pair of tokens in so many completes a stop string; 0: none

  static std::uint64_t extend(std::uint64_t prefix, TokenId token) {
    return mix(prefix, static_cast<std::uint64_t>(token) + 1);
  }
  static std::vector<std::uint64_t> prefixes(const std::vector<TokenId>& tokens) {
    std::vector<std::uint64_t> all;
    for (const TokenId token : tokens) all.push_back(extend(all.empty() ? 7 : all.back(), token));
    return all;
  }
  TokenId sample(std::uint64_t prefix, std::uint64_t key) const {
    const std::uint64_t x = mix(prefix, key);
    if (eos_every > 0 && x % static_cast<std::uint64_t>(eos_every) == 0) return kEos;
    return static_cast<TokenId>(1 + mix(x, 1) % static_cast<std::uint64_t>(vocab - 1));
  }
  // Does the last token complete a stop string?
  bool stops(const std::vector<TokenId>& output) const {
    if (stop_every == 0 || output.size() < 2) return false;
    const auto pair =
        mix(static_cast<std::uint64_t>(output[output.size() - 2]), static_cast<std::uint64_t>(output.back()));
    return pair % static_cast<std::uint64_t>(stop_every) == 0;
  }
};

struct Answer {
  std::vector<TokenId> output;
  FinishReason reason = FinishReason::none;
  bool operator==(const Answer&) const = default;
};

// What a request's answer must be, from the definitions alone.
inline Answer expected_answer(const FakeModel& model, const Request& request, const Options& options) {
  const auto contains = [](const std::vector<TokenId>& ids, TokenId id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  };
  Answer answer;
  std::uint64_t prefix = FakeModel::prefixes(request.prompt).back();
  while (true) {
    const TokenId token = model.sample(prefix, request.random_key);
    const auto before = static_cast<std::int64_t>(answer.output.size());
    answer.output.push_back(token);
    prefix = FakeModel::extend(prefix, token);
    const bool ends = contains(request.params.stop_token_ids, token) ||
                      (!request.params.ignore_eos && contains(options.eos_ids, token));
    if (model.stops(answer.output) || (ends && before >= request.params.min_tokens)) {
      answer.reason = FinishReason::stop;
      return answer;
    }
    const auto length = request.prompt.size() + answer.output.size();
    if (before + 1 >= request.params.max_tokens || length >= static_cast<std::size_t>(options.max_context)) {
      answer.reason = FinishReason::length;
      return answer;
    }
  }
}

// Runs plans at collect(), as late as it may, so that spans that went stale after submit() are noticed.
class FakeExecutor : public Executor {
 public:
  FakeExecutor(const FakeModel& model, const Options& options)
      : model_(model),
        options_(options),
        slots_(static_cast<std::size_t>(options.kv_blocks) * kKvBlockTokens) {}

  Capacity capacity() const override {
    return {.kv_blocks = options_.kv_blocks,
            .max_query_tokens = std::max(options_.token_budget, options_.max_sequences),
            .max_sequences = options_.max_sequences,
            .pipeline_depth = options_.pipeline_depth,
            .shares_within_step = options_.share_within_step};
  }

  void submit(const BatchPlan& plan) override {
    Submitted submitted{&plan, {}, {}};
    for (const PlannedSequence& s : plan.sequences) {
      submitted.tokens.emplace_back(s.tokens.begin(), s.tokens.end());
      submitted.blocks.emplace_back(s.blocks.begin(), s.blocks.end());
    }
    queue_.push_back(std::move(submitted));
  }

  StepResult collect() override {
    const Submitted submitted = std::move(queue_.front());
    queue_.pop_front();
    expect_spans_unchanged(submitted);
    const BatchPlan& plan = *submitted.plan;
    std::vector<std::vector<TokenId>> tokens;
    std::vector<std::vector<std::uint64_t>> prefixes;  // of tokens, same shape
    for (const PlannedSequence& s : plan.sequences) {
      tokens.push_back(inputs(s));
      prefixes.push_back(FakeModel::prefixes(tokens.back()));
    }

    // Unless steps may share within themselves, all that is read was written by earlier steps.
    for (std::size_t i = 0; i < tokens.size() && !options_.share_within_step; ++i)
      expect_readable(plan.sequences[i], prefixes[i], plan.sequences[i].computed);
    std::set<std::size_t> written;
    for (std::size_t i = 0; i < tokens.size(); ++i) write(plan.sequences[i], prefixes[i], written);
    StepResult result{.step = plan.step, .tokens = {}, .compute_seconds = 0.0};
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const PlannedSequence& s = plan.sequences[i];
      expect_readable(s, prefixes[i], s.computed + s.num_tokens);
      if (!s.samples) continue;
      const TokenId token = model_.sample(prefixes[i].back(), s.random_key);
      result.tokens.push_back({.id = s.id, .token = token, .logprob = 0.0F, .top = {}});
      tokens[i].push_back(token);
      seen_[s.id] = std::move(tokens[i]);
    }
    return result;
  }

 private:
  struct Submitted {
    const BatchPlan* plan;
    std::vector<std::vector<TokenId>> tokens;
    std::vector<std::vector<BlockId>> blocks;
  };

  static void expect_spans_unchanged(const Submitted& submitted) {
    ASSERT_EQ(submitted.plan->sequences.size(), submitted.tokens.size());
    for (std::size_t i = 0; i < submitted.tokens.size(); ++i) {
      const PlannedSequence& s = submitted.plan->sequences[i];
      ASSERT_TRUE(std::equal(s.tokens.begin(), s.tokens.end(), submitted.tokens[i].begin(),
                             submitted.tokens[i].end()));
      ASSERT_TRUE(std::equal(s.blocks.begin(), s.blocks.end(), submitted.blocks[i].begin(),
                             submitted.blocks[i].end()));
    }
  }

  // Tokens up to the end of this step's chunk; those still unknown to the plan come from what was sampled
  // here.
  std::vector<TokenId> inputs(const PlannedSequence& s) {
    const auto end = static_cast<std::size_t>(s.computed + s.num_tokens);
    std::vector<TokenId> tokens(s.tokens.begin(), s.tokens.end());
    if (tokens.size() < end) {
      const std::vector<TokenId>& seen = seen_[s.id];
      EXPECT_GE(seen.size(), end) << "sequence " << s.id;
      EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), seen.begin()));
      tokens = seen;
    }
    tokens.resize(end);
    return tokens;
  }

  std::size_t slot(const PlannedSequence& s, int position) const {
    const auto block = s.blocks[static_cast<std::size_t>(position / kKvBlockTokens)];
    return static_cast<std::size_t>(block) * kKvBlockTokens +
           static_cast<std::size_t>(position % kKvBlockTokens);
  }

  void expect_readable(const PlannedSequence& s, const std::vector<std::uint64_t>& prefixes, int end) const {
    ASSERT_EQ(static_cast<int>(s.blocks.size()), blocks_for(s.computed + s.num_tokens));
    int p = 0;
    while (p < end && slots_[slot(s, p)] == prefixes[static_cast<std::size_t>(p)]) ++p;
    ASSERT_GE(p, end) << "sequence " << s.id << ": the slot of position " << p << " holds something else";
  }

  void write(const PlannedSequence& s, const std::vector<std::uint64_t>& prefixes,
             std::set<std::size_t>& written) {
    for (int p = s.computed; p < s.computed + s.num_tokens; ++p) {
      ASSERT_TRUE(written.insert(slot(s, p)).second) << "two sequences write one KV slot";
      slots_[slot(s, p)] = prefixes[static_cast<std::size_t>(p)];
    }
  }

  FakeModel model_;
  Options options_;
  std::vector<std::uint64_t> slots_;  // [kv_blocks * 16] hash of the prefix each slot stands for
  std::deque<Submitted> queue_;
  std::map<SequenceId, std::vector<TokenId>> seen_;
};

}  // namespace nightshift::scheduler::test
