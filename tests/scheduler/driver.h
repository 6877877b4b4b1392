// SPDX-License-Identifier: Apache-2.0
// Runs requests through a scheduler and the fake model as the engine does, and checks every plan against the
// promises of scheduler.h as seen from outside.
#pragma once

#include "scheduler/fake_model.h"

namespace nightshift::scheduler::test {

struct Outcome {
  std::map<SequenceId, Answer> answers;
  std::map<SequenceId, Finished> finished;
  std::uint64_t plan_hash = 0;
  int steps = 0;
  Counters counters;
};

class Driver {
 public:
  Driver(const FakeModel& model, const Options& options)
      : model_(model), options_(options), scheduler_(options), executor_(model, options) {}

  // Cancels these sequences right after the commit of the given step.
  std::multimap<int, SequenceId> cancel_after;
  // Called after each commit; true abandons the run there (a crash).
  std::function<bool(int)> crash;
  // Says so when everything was added.
  bool closes = true;

  Scheduler& scheduler() { return scheduler_; }

  Outcome run(std::vector<Request> requests) {
    std::size_t next = 0;
    for (SequenceId order = 0; order < requests.size(); ++order) {
      const Request& request = requests[order];
      arrival_[request.id] = order;
      outputs_[request.id] = request.output;
      final_length_[request.id] =
          std::min(static_cast<int>(request.prompt.size()) + static_cast<int>(request.params.max_tokens),
                   scheduler_.context_limit());
    }
    while (!::testing::Test::HasFatalFailure()) {
      while (next < requests.size() && scheduler_.wants_more()) {
        const auto refused = scheduler_.add(std::move(requests[next++]));
        EXPECT_FALSE(refused) << *refused;
      }
      closed_ = closes && next == requests.size();
      if (closed_) scheduler_.close();
      const Counters before = scheduler_.counters();
      const BatchPlan& plan = scheduler_.plan();
      if (!plan.empty()) {
        check_plan(plan, before, scheduler_.counters());
        executor_.submit(plan);
        if (scheduler_.in_flight() < options_.pipeline_depth) continue;
      } else if (scheduler_.in_flight() == 0) {
        EXPECT_TRUE(scheduler_.idle()) << "nothing planned with work left: a deadlock";
        EXPECT_EQ(next, requests.size()) << "wants_more() starved admission";
        break;
      }
      commit_one();
      if (crash && crash(outcome_.steps)) return std::move(outcome_);
      if (++outcome_.steps > 200000) {
        ADD_FAILURE() << "no end in sight";
        break;
      }
    }
    scheduler_.audit();
    check_counters();
    return std::move(outcome_);
  }

 private:
  struct Seen {
    bool samples = false;  // its last planned step does
    int length = 0;        // tokens that exist once its planned steps have run
  };

  void commit_one() {
    const StepResult result = executor_.collect();
    std::vector<SequenceId> stop;
    for (const SampledToken& sampled : result.tokens) {
      if (outcome_.finished.contains(sampled.id)) continue;  // overlapped: it ended meanwhile
      std::vector<TokenId>& output = outputs_[sampled.id];
      output.push_back(sampled.token);
      if (model_.stops(output)) stop.push_back(sampled.id);
    }
    for (Finished& finished : scheduler_.commit(result, stop)) note(std::move(finished));
    const auto [first, last] = cancel_after.equal_range(outcome_.steps);
    for (auto it = first; it != last; ++it)
      if (auto finished = scheduler_.cancel(it->second)) note(std::move(*finished));
    scheduler_.audit();
  }

  void note(Finished finished) {
    const SequenceId id = finished.id;
    EXPECT_EQ(finished.output, outputs_[id]) << "sequence " << id;
    outcome_.answers[id] = {finished.output, finished.reason};
    EXPECT_TRUE(outcome_.finished.emplace(id, std::move(finished)).second) << "ended twice: " << id;
    seen_.erase(id);
  }

  void check_plan(const BatchPlan& plan, const Counters& before, const Counters& after) {
    const bool pressed =
        after.preemptions > before.preemptions || after.skipped_decodes > before.skipped_decodes;
    check_order(plan, pressed);
    check_decodes(plan, pressed, after.skipped_decodes > before.skipped_decodes);
    check_budget(plan);
    check_holding(plan, pressed, after.held_steps > before.held_steps);
    check_tail(plan);
    for (const PlannedSequence& s : plan.sequences) {
      for (const std::uint64_t value :
           {s.id, std::uint64_t(s.computed), std::uint64_t(s.num_tokens), std::uint64_t(s.samples)})
        outcome_.plan_hash = mix(outcome_.plan_hash, value);
      for (const BlockId block : s.blocks) outcome_.plan_hash = mix(outcome_.plan_hash, std::uint64_t(block));
      seen_[s.id] = {s.samples, s.computed + s.num_tokens + (s.samples ? 1 : 0)};
    }
  }

  // Decodes, then prefills; each group by arrival; a prefill is cut short only at the end of the step; nobody
  // comes in while blocks are short.
  void check_order(const BatchPlan& plan, bool pressed) {
    EXPECT_LE(plan.sequences.size(), static_cast<std::size_t>(options_.max_sequences));
    const auto decodes = static_cast<std::size_t>(plan.decode_tokens);
    for (std::size_t i = 0; i < plan.sequences.size(); ++i) {
      const PlannedSequence& s = plan.sequences[i];
      const bool decodes_now = seen_.contains(s.id) && seen_[s.id].samples && !preempted_.contains(s.id);
      EXPECT_EQ(i < decodes, decodes_now) << "sequence " << s.id << " in the wrong group";
      EXPECT_GT(s.num_tokens, 0);
      EXPECT_FALSE(outcome_.finished.contains(s.id)) << "ended, but planned: " << s.id;
      if (i < decodes) {
        EXPECT_EQ(s.num_tokens, 1);
      }
      if (i < decodes) {
        EXPECT_EQ(s.computed + 1, seen_[s.id].length);
      }
      if (i != 0 && i != decodes) {
        EXPECT_LT(arrival_[plan.sequences[i - 1].id], arrival_[s.id]);
      }
      if (i >= decodes && i + 1 < plan.sequences.size()) {
        EXPECT_TRUE(s.samples) << "overtaken: " << s.id;
      }
      if (pressed) {
        EXPECT_TRUE(started_.contains(s.id) && !preempted_.contains(s.id)) << "admitted: " << s.id;
      }
      if (started_.insert(s.id).second) {
        EXPECT_GE(arrival_[s.id], next_arrival_) << "admitted out of order";
        next_arrival_ = arrival_[s.id];
      }
    }
  }

  // Whoever decodes is in the plan, unless KV blocks ran out: then the latest arrivals miss out. At most one
  // of them is merely skipped (the earliest, after everything behind it was preempted) and must be back as
  // soon as there is room.
  void check_decodes(const BatchPlan& plan, bool pressed, bool skipped) {
    std::map<std::uint64_t, SequenceId> left_out;  // by arrival
    std::uint64_t last_planned = 0;
    for (const auto& [id, seen] : seen_)
      if (seen.samples && seen.length < final_length_[id] && !preempted_.contains(id))
        left_out[arrival_[id]] = id;
    for (const PlannedSequence& s : plan.sequences) {
      preempted_.erase(s.id);
      if (left_out.erase(arrival_[s.id]) > 0) last_planned = std::max(last_planned, arrival_[s.id]);
    }
    for (const auto& [arrival, id] : left_out) {
      EXPECT_TRUE(pressed) << "sequence " << id << " decodes, but was left out";
      EXPECT_GT(arrival, last_planned) << "an elder was left out";
    }
    if (skipped && !left_out.empty()) left_out.erase(left_out.begin());
    for (const auto& [arrival, id] : left_out) preempted_.insert(id);
  }

  // The report's sums are those of the answers.
  void check_counters() {
    const Counters c = outcome_.counters = scheduler_.counters();
    std::uint64_t preemptions = 0, recomputed = 0, cached = 0;
    for (const auto& [id, finished] : outcome_.finished) {
      preemptions += static_cast<std::uint64_t>(finished.preemptions);
      recomputed += static_cast<std::uint64_t>(finished.recomputed);
      cached += static_cast<std::uint64_t>(finished.cached_tokens);
    }
    EXPECT_EQ(c.finished, outcome_.finished.size());
    EXPECT_EQ(c.preemptions, preemptions);
    EXPECT_EQ(c.recomputed_tokens, recomputed);
    EXPECT_EQ(c.cache_hit_tokens, cached);
    EXPECT_EQ(c.decode_tokens + c.prefill_tokens, query_tokens_);
    EXPECT_EQ(c.output_tokens + c.dropped_tokens, sampled_tokens_);
    EXPECT_LE(c.kv_blocks_high_water, options_.kv_blocks);
  }

  void check_budget(const BatchPlan& plan) {
    int tokens = 0;
    for (const PlannedSequence& s : plan.sequences) tokens += s.num_tokens;
    for (const PlannedSequence& s : plan.sequences) sampled_tokens_ += s.samples;
    EXPECT_EQ(tokens, plan.query_tokens);
    query_tokens_ += static_cast<std::uint64_t>(tokens);
    const int prefill = plan.query_tokens - plan.decode_tokens;
    EXPECT_LE(prefill, std::max(0, options_.token_budget - plan.decode_tokens));
    const bool cut = prefill > 0 && !plan.sequences.back().samples;  // more prefill was to be had
    const int whole_tiles = options_.token_budget / options_.tile * options_.tile;
    if (cut && whole_tiles > plan.decode_tokens) {
      EXPECT_EQ(plan.query_tokens, whole_tiles);
    }
    if (cut && whole_tiles <= plan.decode_tokens) {
      EXPECT_EQ(plan.query_tokens, options_.token_budget);
    }
  }

  // Prefill is held back only beside decodes, within patience, and where few places stay empty for it.
  void check_holding(const BatchPlan& plan, bool pressed, bool held) {
    if (plan.query_tokens > plan.decode_tokens) held_in_a_row_ = 0;
    if (!held) return;
    EXPECT_GT(plan.decode_tokens, 0);
    EXPECT_EQ(plan.query_tokens, plan.decode_tokens);
    EXPECT_LE(++held_in_a_row_, options_.prefill_patience);
    EXPECT_GT(options_.prefill_group, 0);
    if (options_.pipeline_depth > 1 || pressed) return;  // some that run have nothing to do then
    EXPECT_GE(4 * plan.decode_tokens, 3 * scheduler_.running());
    const double kv_need = static_cast<double>(options_.max_sequences) * blocks_for(options_.max_context);
    if (kv_need <= (1.0 - options_.watermark) * options_.kv_blocks) {
      EXPECT_GE(4 * plan.decode_tokens,
                3 * std::min(options_.max_sequences, scheduler_.running() + scheduler_.waiting()));
    }
  }

  void check_tail(const BatchPlan& plan) {
    const bool decodes_only = plan.query_tokens == plan.decode_tokens;
    if (plan.tail) {
      EXPECT_TRUE(closed_ && decodes_only && scheduler_.waiting() == 0);
      ++tail_steps_;
    } else if (tail_steps_ > 0) {
      EXPECT_GT(scheduler_.counters().preemptions, 0U) << "the tail ended without a reason";
    } else if (closed_ && decodes_only && scheduler_.waiting() == 0) {
      EXPECT_GT(scheduler_.running(), plan.decode_tokens) << "nothing but decodes left, yet no tail";
    }
  }

  FakeModel model_;
  Options options_;
  Scheduler scheduler_;
  FakeExecutor executor_;
  Outcome outcome_;
  std::map<SequenceId, std::uint64_t> arrival_;
  std::map<SequenceId, std::vector<TokenId>> outputs_;  // as the engine keeps them
  std::map<SequenceId, Seen> seen_;
  std::map<SequenceId, int> final_length_;  // tokens with which a sequence ends by length
  std::set<SequenceId> started_;
  std::set<SequenceId> preempted_;  // decoded before, not yet back
  std::uint64_t next_arrival_ = 0;
  bool closed_ = false;
  int held_in_a_row_ = 0;
  int tail_steps_ = 0;
  std::uint64_t query_tokens_ = 0;
  std::uint64_t sampled_tokens_ = 0;
};

}  // namespace nightshift::scheduler::test
