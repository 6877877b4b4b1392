// SPDX-License-Identifier: Apache-2.0
// Holding prefill back until enough of it is at hand for a bulk step. Where the cost of a step bends (one
// layout is best for few query tokens, another for many: a minimum of two affine functions is concave), a run
// of mixed steps near the bend costs more than as many pure decodes and one bulk step. Systems that mix lose
// there: 35 % against tensor parallelism alone at 2,000-token prompts (ArcticInference, issue 184).
#include <algorithm>
#include <ranges>

#include "scheduler/scheduler.h"
#include "scheduler/sequence.h"

namespace nightshift::scheduler {

// Only in steps that decode: a step without decodes has nothing better to do.
bool Scheduler::holds_prefills(int decodes, int limit, bool pressed) const {
  if (options_.prefill_group == 0 || decodes == 0 || held_steps_ >= options_.prefill_patience) return false;
  const int wanted = std::min(options_.prefill_group, limit - decodes);  // more would not fit in any case
  const int most_places = decodes / 3;  // a quarter of the places in use, were what is held back running too
  AtHand hand;
  for (const Sequence* sequence : running_)
    if (sequence->prefilling()) hand.take(sequence->prefill_end - sequence->computed);
  if (!pressed) count_admissible(hand, wanted, most_places);
  const bool nothing_to_add = closed_ && hand.sequences_waiting == static_cast<int>(waiting_.size());
  return hand.tokens > 0 && hand.tokens < wanted && hand.sequences <= most_places && !nothing_to_add;
}

// Adds the requests that running places and KV blocks have room for, until the answer is clear. Hits of the
// prefix cache are estimated: blocks that turn cached or evicted before admission, and cached blocks that
// nobody holds (they count as room although using them takes them) may make the step differ from the count.
// That moves a step's size, never its correctness.
void Scheduler::count_admissible(AtHand& hand, int wanted, int most_places) const {
  int places = options_.max_sequences - running();
  int blocks = kv_.available() - watermark_blocks_;
  const Sequence* previous = nullptr;
  for (Sequence* sequence : waiting_) {
    if (hand.tokens >= wanted || hand.sequences > most_places) return;
    const int hits = estimated_hits(*sequence, previous);
    blocks -= blocks_for(sequence->known()) - hits;
    if (places-- == 0 || blocks < 0 || sequence->pending > 0) return;
    hand.take(sequence->known() - hits * kKvBlockTokens);
    ++hand.sequences_waiting;
    previous = sequence;
  }
}

// Leading blocks that need no computing, by bisection: a chain is evicted from its tail, so what is cached of
// it is nearly always a prefix. Where a step shares within itself, what the neighbour in the queue computes
// counts too (the answers to one prompt stand side by side). Hashes are made once and kept for admission.
int Scheduler::estimated_hits(Sequence& sequence, const Sequence* previous) const {
  if (!kv_.prefix_cache()) return 0;
  const int most = (sequence.known() - 1) / kKvBlockTokens;
  for (int i = static_cast<int>(sequence.chain.size()); i < most; ++i) hash_of_block(sequence, i);
  const auto leading = [](int n, auto holds) {
    const auto indices = std::views::iota(0, n);
    return static_cast<int>(std::ranges::partition_point(indices, holds) - indices.begin());
  };
  const auto hash = [](const Sequence& of, int i) { return of.chain[static_cast<std::size_t>(i)]; };
  const int cached =
      leading(most, [&](int i) { return kv_.lookup(hash(sequence, i), block_tokens(sequence, i)) >= 0; });
  if (!options_.share_within_step || previous == nullptr) return cached;
  const int both = std::min(most, static_cast<int>(previous->chain.size()));
  return std::max(cached, leading(both, [&](int i) { return hash(sequence, i) == hash(*previous, i); }));
}

}  // namespace nightshift::scheduler
