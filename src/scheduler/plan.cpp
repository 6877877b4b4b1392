// SPDX-License-Identifier: Apache-2.0
// Making a step. Three passes over sequences in order of arrival: decodes, started prefills, new requests.
//
// Two facts carry the proof that a full pool cannot lock up. Running sequences arrived before all waiting
// ones (only the last running one is ever preempted, and it goes to the head of the queue), and what runs
// first may preempt everything behind it: so the oldest sequence always moves, and context_limit() makes sure
// that the pool holds it whole.
#include <algorithm>

#include "core/check.h"
#include "scheduler/scheduler.h"
#include "scheduler/sequence.h"

namespace nightshift::scheduler {

const BatchPlan& Scheduler::plan() {
  NS_CHECK(steps_in_flight_ < options_.pipeline_depth, "{} steps in flight already, commit one first",
           steps_in_flight_);
  Step& step = step_at(steps_in_flight_);
  step.sequences.clear();
  step.plan.sequences.clear();
  step.plan.step = next_step_;
  step.plan.query_tokens = 0;

  const bool pressed = plan_decodes(step);
  step.plan.decode_tokens = step.plan.query_tokens;
  plan_prefill_work(step, pressed);
  step.plan.tail = is_tail(step.plan);
  if (step.plan.empty()) return step.plan;

  // Published only now: what this step computes can be read from the next one on, since steps run in order.
  for (Sequence* sequence : step.sequences) publish_full_blocks(*sequence);
  count(step.plan);
  ++next_step_;
  ++steps_in_flight_;
  return step.plan;
}

// One token for every sequence that decodes, whatever the budget. Returns true if KV blocks ran short.
bool Scheduler::plan_decodes(Step& step) {
  bool pressed = false;
  for (std::size_t i = 0; i < running_.size(); ++i) {  // grow() may shorten the list behind i
    Sequence& sequence = *running_[i];
    if (!sequence.wants_decode()) continue;
    if (grow(i, pressed))
      schedule(step, sequence, 1);
    else
      ++counters_.skipped_decodes;
  }
  return pressed;
}

// A block for the token at position `computed`. Where there is none, the latest arrivals lose theirs; the
// sequence itself never does, it keeps what it has and waits (its elders take it from there if they need it).
bool Scheduler::grow(std::size_t index, bool& pressed) {
  Sequence& sequence = *running_[index];
  if (blocks_for(sequence.computed + 1) <= static_cast<int>(sequence.blocks.size())) return true;
  while (kv_.available() == 0) {
    pressed = true;
    if (running_.size() == index + 1) return false;
    preempt_last();
  }
  sequence.blocks.push_back(kv_.allocate());
  return true;
}

// By recomputation: tokens stay, K and V go. Published blocks remain cached until somebody needs them, so
// that taking the sequence up again is often cheap.
void Scheduler::preempt_last() {
  Sequence& victim = *running_.back();
  running_.pop_back();
  waiting_.push_front(&victim);
  victim.resident = false;
  kv_.release(victim.blocks);  // at once, though a step in flight may use them: steps run in order
  if (victim.in_flight > 0) step_at(steps_in_flight_ - 1).retired.push_back(std::move(victim.blocks));
  victim.blocks.clear();  // admit() sets the counters anew
  ++victim.preemptions;
  ++counters_.preemptions;
}

// Most query tokens that prefill may fill the step up to. A GEMM pays for whole tiles, so the budget is
// rounded down to them, unless the decodes leave nothing below that: a prefill must not starve.
int Scheduler::prefill_limit(int decodes) const {
  const int rounded = options_.token_budget / options_.tile * options_.tile;
  return rounded > decodes ? rounded : options_.token_budget;
}

// Started prefills and new requests, unless they wait for a bulk step.
void Scheduler::plan_prefill_work(Step& step, bool pressed) {
  const int decodes = step.plan.decode_tokens;
  const int limit = prefill_limit(decodes);
  if (holds_prefills(decodes, limit, pressed)) {
    ++held_steps_;
    ++counters_.held_steps;
    return;
  }
  plan_prefills(step, limit);
  if (!pressed) plan_admissions(step, limit);  // what was just taken from one must not go to a newcomer
  if (step.plan.query_tokens > decodes) held_steps_ = 0;
}

bool Scheduler::is_tail(const BatchPlan& plan) const {
  return closed_ && waiting_.empty() && plan.query_tokens == plan.decode_tokens &&
         std::none_of(running_.begin(), running_.end(),
                      [](const Sequence* sequence) { return sequence->prefilling(); });
}

void Scheduler::plan_prefills(Step& step, int limit) {
  for (Sequence* sequence : running_) {
    const int room = limit - step.plan.query_tokens;
    if (room <= 0) return;
    if (sequence->prefilling())
      schedule(step, *sequence, std::min(sequence->prefill_end - sequence->computed, room));
  }
}

void Scheduler::plan_admissions(Step& step, int limit) {
  while (!waiting_.empty() && static_cast<int>(running_.size()) < options_.max_sequences) {
    const int room = limit - step.plan.query_tokens;
    Sequence& sequence = *waiting_.front();
    // A preempted sequence whose last token is still on its way cannot be recomputed yet; nobody overtakes
    // it.
    if (room <= 0 || sequence.pending > 0 || !admit(sequence)) return;
    waiting_.pop_front();
    running_.push_back(&sequence);
    sequence.resident = true;
    schedule(step, sequence, std::min(sequence.prefill_end - sequence.computed, room));
  }
}

// Reserves blocks for everything known of the sequence, or nothing. Per-chunk admission would let several
// half-read prompts fill the pool and preempt each other for ever.
bool Scheduler::admit(Sequence& sequence) {
  const int hits = match_prefix(sequence);
  const auto idle_hits =
      std::count_if(matched_.begin(), matched_.end(), [this](BlockId block) { return !kv_.is_held(block); });
  const int needed = blocks_for(sequence.known()) - hits;
  // With nobody running there is nobody to leave room for, and a sequence as long as the pool must get in.
  const int reserve = running_.empty() ? 0 : watermark_blocks_;
  if (kv_.available() - static_cast<int>(idle_hits) < needed + reserve) return false;

  sequence.tokens.reserve(static_cast<std::size_t>(sequence.final_tokens));  // never moves again
  sequence.blocks.reserve(static_cast<std::size_t>(blocks_for(sequence.final_tokens)));
  for (const BlockId block : matched_) kv_.share(block);
  sequence.blocks.assign(matched_.begin(), matched_.end());
  for (int i = 0; i < needed; ++i) sequence.blocks.push_back(kv_.allocate());

  sequence.computed = hits * kKvBlockTokens;
  sequence.published = hits;
  sequence.prefill_end = sequence.known();
  if (!sequence.ever_ran) {
    sequence.cached_tokens = std::min(sequence.computed, sequence.prompt_tokens);
    ++counters_.admitted;
    counters_.prompt_tokens += static_cast<std::uint64_t>(sequence.prompt_tokens);
    counters_.cache_hit_tokens += static_cast<std::uint64_t>(sequence.cached_tokens);
  }
  sequence.reached = std::max(sequence.reached, sequence.computed);
  return true;
}

// Fills matched_ with the published blocks that the sequence can begin with and returns how many. The last
// known token is always computed: its logits are wanted.
int Scheduler::match_prefix(Sequence& sequence) {
  matched_.clear();
  if (!kv_.prefix_cache()) return 0;
  const int most = (sequence.known() - 1) / kKvBlockTokens;
  for (int i = 0; i < most; ++i) {
    const BlockId block = kv_.lookup(hash_of_block(sequence, i), block_tokens(sequence, i));
    if (block < 0) break;
    matched_.push_back(block);
  }
  return static_cast<int>(matched_.size());
}

const BlockHash& Scheduler::hash_of_block(Sequence& sequence, int index) const {
  const auto i = static_cast<std::size_t>(index);
  NS_DCHECK(i <= sequence.chain.size(), "block {} hashed before its parent", index);
  if (i == sequence.chain.size())
    sequence.chain.push_back(
        chain_hash(i == 0 ? BlockHash{} : sequence.chain[i - 1], block_tokens(sequence, index)));
  return sequence.chain[i];
}

// Puts the next num_tokens of a sequence into the step. From here on they count as computed.
void Scheduler::schedule(Step& step, Sequence& sequence, int num_tokens) {
  const int end = sequence.computed + num_tokens;
  const bool samples = end == sequence.total();
  const std::span<const BlockId> blocks(sequence.blocks);
  step.sequences.push_back(&sequence);
  step.plan.sequences.push_back({.id = sequence.id,
                                 .computed = sequence.computed,
                                 .num_tokens = num_tokens,
                                 .samples = samples,
                                 .prompt_tokens = sequence.prompt_tokens,
                                 .tokens = sequence.tokens,
                                 .blocks = blocks.first(static_cast<std::size_t>(blocks_for(end))),
                                 .sampling = &sequence.sampling,
                                 .random_key = sequence.random_key});
  step.plan.query_tokens += num_tokens;

  if (!sequence.ever_ran) sequence.first_step = step.plan.step;
  if (samples && sequence.total() == sequence.prompt_tokens) sequence.first_token = step.plan.step;
  sequence.ever_ran = true;
  sequence.pending += samples;
  ++sequence.in_flight;
  const int again = std::max(0, std::min(end, sequence.reached) - sequence.computed);
  sequence.recomputed += again;
  counters_.recomputed_tokens += static_cast<std::uint64_t>(again);
  sequence.computed = end;
  sequence.reached = std::max(sequence.reached, end);
  if (options_.share_within_step) publish_full_blocks(sequence);
}

// Offers every block whose 16 tokens are known and computed. In overlapped steps a decoded token becomes
// known later than its block is computed; the next call finds it.
void Scheduler::publish_full_blocks(Sequence& sequence) {
  if (!kv_.prefix_cache()) return;
  const int full = std::min(sequence.computed, sequence.known()) / kKvBlockTokens;
  for (int& i = sequence.published; i < full; ++i)
    kv_.publish(sequence.blocks[static_cast<std::size_t>(i)], hash_of_block(sequence, i),
                block_tokens(sequence, i));
}

void Scheduler::count(const BatchPlan& plan) {
  const auto sequences = static_cast<std::uint64_t>(plan.sequences.size());
  const int over = plan.query_tokens % options_.tile;
  ++counters_.steps;
  counters_.decode_tokens += static_cast<std::uint64_t>(plan.decode_tokens);
  counters_.prefill_tokens += static_cast<std::uint64_t>(plan.query_tokens - plan.decode_tokens);
  counters_.padding_tokens += static_cast<std::uint64_t>(over == 0 ? 0 : options_.tile - over);
  counters_.sequences += sequences;
  counters_.max_batch = std::max(counters_.max_batch, sequences);
}

}  // namespace nightshift::scheduler
