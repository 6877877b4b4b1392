// SPDX-License-Identifier: Apache-2.0
// The scheduler room: which tokens of which sequences run in the next step, and where their keys and values
// live.
//
// Order of a step: stall-free batching (Agrawal et al. 2024, "Taming Throughput-Latency Tradeoff in LLM
// Inference with Sarathi-Serve"): decodes, then started prefills, then new requests, first come first served,
// up to a token budget. Pure: no MPI, clock, I/O or randomness. The same calls give the same plans, so every
// rank of a replica runs its own copy, and the planner simulates with the very object that runs the job.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/types.h"
#include "scheduler/kv_blocks.h"

namespace nightshift::scheduler {

// One answer wanted. A prompt with n > 1 comes as n requests that differ in id and random_key; they share the
// prompt's full KV blocks through the prefix cache. Order of arrival is the order of add().
struct Request {
  SequenceId id = 0;
  std::vector<TokenId> prompt;
  SamplingParams params;         // params.n is not looked at
  std::uint64_t random_key = 0;  // handed through to the plan
  std::vector<TokenId>
      output;  // taken up from a checkpoint: tokens generated before; params.max_tokens counts them
};

struct Options {
  int token_budget = 2048;  // query tokens per step, decodes included; decodes alone may exceed it
  int max_sequences = 256;  // running at once
  int kv_blocks = 0;        // of kKvBlockTokens tokens each
  int max_context = 0;      // tokens of prompt and answer together
  bool prefix_cache = true;
  bool share_within_step = false;  // see Capacity::shares_within_step
  double watermark = 0.01;         // share of the KV blocks that admission leaves free for growth
  std::vector<TokenId> eos_ids;    // the model's end-of-sequence ids
  int tile = 128;  // rows of a GEMM tile: a step filled by prefill holds a multiple of it; 1: no rounding
  int pipeline_depth = 1;  // steps planned and not yet committed: 1 synchronous, 2 overlapped
  // While sequences decode, prefill waits until this many of its tokens (prefix hits not counted) can run in
  // one step, or as many as the budget leaves room for, so that steps are clearly bulk or clearly decode. It
  // waits for at most prefill_patience steps, and never where that would leave more than a quarter of the
  // running places empty that KV cache and requests could fill. 0: nothing waits.
  int prefill_group = 0;
  int prefill_patience = 64;
};

// One answer, complete. Step numbers are BatchPlan::step, for whoever keeps the clock.
struct Finished {
  SequenceId id = 0;
  FinishReason reason = FinishReason::none;  // stop, length, repetition or cancelled
  std::vector<TokenId> output;               // every sampled token, the one that ended it included
  TokenId stop_token = -1;                   // the eos or stop id that ended it; -1: something else did
  int prompt_tokens = 0;
  int cached_tokens = 0;          // of the prompt, found in the prefix cache on first admission
  int preemptions = 0;            // how often it lost its KV blocks
  std::int64_t recomputed = 0;    // tokens computed again because of that, or of a checkpoint taken up
  std::uint64_t first_step = 0;   // that computed any of it; meaningless if it never ran
  std::uint64_t first_token = 0;  // step that sampled its first token; meaningless without output
};

// A sequence under way, for a checkpoint. The span is valid until the next call that is not const.
struct Progress {
  SequenceId id = 0;
  std::span<const TokenId> output;
};

// Sums since the start, for the report (definitions: docs/performance.md).
struct Counters {
  std::uint64_t steps = 0;
  std::uint64_t decode_tokens = 0;   // query tokens of decodes
  std::uint64_t prefill_tokens = 0;  // query tokens of prefills, recomputation included
  std::uint64_t padding_tokens = 0;  // what rounding every step up to whole tiles would add
  std::uint64_t sequences = 0;       // summed over steps: mean batch size = sequences / steps
  std::uint64_t max_batch = 0;       // sequences in the largest step
  std::uint64_t admitted = 0;        // first admissions
  std::uint64_t finished = 0;        // cancelled ones included
  std::uint64_t output_tokens = 0;   // kept
  std::uint64_t dropped_tokens = 0;  // sampled past an end found late: the price of overlapping
  std::uint64_t preemptions = 0;
  std::uint64_t recomputed_tokens = 0;
  std::uint64_t prompt_tokens = 0;     // of first admissions
  std::uint64_t cache_hit_tokens = 0;  // of those, found in the prefix cache
  std::uint64_t skipped_decodes = 0;   // decodes that had to wait a step for a KV block
  std::uint64_t held_steps = 0;        // that held prefill back for a bulk step
  std::uint64_t evictions = 0;         // cached blocks taken for new content
  int kv_blocks_high_water = 0;        // held at once
};

// What an executor can take; the runtime turns it into Options.
struct Capacity {
  int kv_blocks = 0;
  int max_query_tokens = 0;  // of one step: at least max(token_budget, max_sequences)
  int max_sequences = 0;     // of one step
  int pipeline_depth = 1;    // steps it holds at once
  // It writes a layer's K and V for the whole step before any attention of that layer reads, so a sequence
  // may read blocks that an earlier one fills in the same step.
  bool shares_within_step = false;
};

// Runs plans. Asynchronous from the start: submit() may return before anything ran.
//  - Plans run in the order of submission, each as if the one before had ended: plan n + 1 reads blocks that
//    plan n fills, and may fill blocks that plan n still reads.
//  - collect() blocks for the oldest plan not yet collected; its result holds one token per sampling
//    sequence, in plan order.
//  - The plan and its spans stay valid until the scheduler has committed that step.
//  - When overlapped, a decode's input may be a token that an earlier plan samples: `tokens` is then shorter
//    than computed + num_tokens, and the executor fills in what it sampled for that sequence.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual Capacity capacity() const = 0;
  virtual void submit(const BatchPlan& plan) = 0;
  virtual StepResult collect() = 0;
};

struct Sequence;

class Scheduler {
 public:
  explicit Scheduler(const Options& options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Queues a request. Returns the reason if it can never run ("too_long: 9000 > 8192 tokens"): the caller
  // makes it a failed row, the scheduler knows nothing of it.
  [[nodiscard]] std::optional<std::string> add(Request&& request);

  // The next step, in flight until committed; at most pipeline_depth may be. Empty (and then not in flight)
  // when nothing can run: with no step in flight that means there is no work at all. Valid until committed;
  // an empty plan until the next call.
  const BatchPlan& plan();

  // Takes the result of the oldest step in flight and returns what ended. `stop`: sequences whose token of
  // this step completed a stop string (which tokens do, and min_tokens for them, is the caller's to decide).
  // A result may hold tokens of sequences that ended in an earlier commit (overlapped steps): they are
  // dropped here, and the caller must drop them too.
  std::vector<Finished> commit(const StepResult& result, std::span<const SequenceId> stop = {});

  // Nothing will be added any more (add() is an error from here on): plans of what is left without prefill
  // are marked as the tail.
  void close() { closed_ = true; }

  // Ends a sequence where it stands; nothing if it is not known (any more).
  std::optional<Finished> cancel(SequenceId id);

  // Unfinished sequences that have output, in order of arrival.
  std::vector<Progress> progress() const;

  int waiting() const { return static_cast<int>(waiting_.size()); }
  int running() const { return static_cast<int>(running_.size()); }
  int in_flight() const { return steps_in_flight_; }
  bool idle() const { return waiting_.empty() && running_.empty() && steps_in_flight_ == 0; }

  // True while fewer requests wait than the next steps could admit: claim prompts and add() them now, so that
  // admission never starves.
  // Never after close().
  bool wants_more() const;

  // Tokens of prompt and answer together that can run here: max_context, or less where the KV pool is
  // smaller. A job whose answers must not depend on the pool wants it to be max_context.
  int context_limit() const { return context_limit_; }
  const Options& options() const { return options_; }
  Counters counters() const;

  // Throws unless free + cached + held = total and every holder is accounted for. Walks the pool: for tests,
  // and for whenever the engine is idle.
  void audit() const;

 private:
  struct Step {
    BatchPlan plan;
    std::vector<Sequence*> sequences;  // of plan.sequences, same order
    // Block lists of preempted sequences that spans of steps in flight still point into.
    std::vector<std::vector<BlockId>> retired;
  };

  Step& step_at(int age) { return steps_[(oldest_step_ + static_cast<std::size_t>(age)) % steps_.size()]; }

  // What prefill could run now.
  struct AtHand {
    int tokens = 0;
    int sequences = 0;
    int sequences_waiting = 0;  // of sequences, not admitted yet
    void take(int more) {
      tokens += more;
      ++sequences;
    }
  };

  // group.cpp
  bool holds_prefills(int decodes, int limit, bool pressed) const;
  void count_admissible(AtHand& hand, int wanted, int most_places) const;
  int estimated_hits(Sequence& sequence, const Sequence* previous) const;

  // plan.cpp
  void plan_prefill_work(Step& step, bool pressed);
  bool is_tail(const BatchPlan& plan) const;
  bool plan_decodes(Step& step);
  void plan_prefills(Step& step, int limit);
  void plan_admissions(Step& step, int limit);
  int prefill_limit(int decodes) const;
  bool grow(std::size_t index, bool& pressed);
  void preempt_last();
  bool admit(Sequence& sequence);
  int match_prefix(Sequence& sequence);
  void schedule(Step& step, Sequence& sequence, int num_tokens);
  void publish_full_blocks(Sequence& sequence);
  const BlockHash& hash_of_block(Sequence& sequence, int index) const;
  void count(const BatchPlan& plan);

  // scheduler.cpp
  std::optional<std::string> refusal(const Request& request) const;
  Sequence& new_sequence();
  void recycle(Sequence& sequence);
  void ask_stop(std::span<const SequenceId> stop);
  FinishReason append(Sequence& sequence, TokenId token);
  bool is_end_token(const Sequence& sequence, TokenId token) const;
  static bool runs_in_circles(const Sequence& sequence);
  Finished end(Sequence& sequence, FinishReason reason);

  Options options_;
  int context_limit_ = 0;
  int watermark_blocks_ = 0;
  KvBlocks kv_;
  std::vector<std::unique_ptr<Sequence>> storage_;   // as many as ever lived at once
  std::vector<Sequence*> unused_;                    // of storage_
  std::deque<Sequence*> waiting_;                    // in order of arrival, all later than any running one
  std::vector<Sequence*> running_;                   // in order of arrival
  std::unordered_map<SequenceId, Sequence*> by_id_;  // looked up, never walked: its order is arbitrary
  std::vector<Step> steps_;                          // ring of pipeline_depth
  std::size_t oldest_step_ = 0;
  int steps_in_flight_ = 0;
  std::uint64_t next_step_ = 0;
  std::vector<BlockId> matched_;  // scratch of match_prefix
  bool closed_ = false;
  int held_steps_ = 0;   // since prefill last ran
  int stops_asked_ = 0;  // by commit's caller, not yet seen in the step
  Counters counters_;
};

}  // namespace nightshift::scheduler
