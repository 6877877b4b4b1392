// SPDX-License-Identifier: Apache-2.0
// What the scheduler remembers of one sequence. Private to the room.
//
// Two counters say everything: `computed`, the tokens whose K and V are written once the steps planned so far
// have run, and total(), the tokens that will be known by then. Prefill, decode, prefix hit, recomputation
// and overlapped steps are all "compute from computed towards total()".
#pragma once

#include <cstdint>
#include <vector>

#include "core/types.h"
#include "scheduler/kv_blocks.h"

namespace nightshift::scheduler {

struct Sequence {
  SequenceId id = 0;
  std::uint64_t random_key = 0;
  SamplingParams sampling;
  std::vector<TokenId>
      tokens;  // prompt, then output; spans point into it, so it must not move while in flight
  std::vector<BlockId> blocks;   // likewise
  std::vector<BlockHash> chain;  // of the leading full blocks, as far as hashed
  int prompt_tokens = 0;
  int final_tokens = 0;  // with so many it ends by length

  int computed = 0;
  int prefill_end = 0;  // what was known on admission: up to here it is a prefill, then it decodes
  int pending = 0;      // tokens that steps in flight sample
  int in_flight = 0;    // steps in flight that hold spans of it
  int published = 0;    // leading full blocks offered to the prefix cache
  bool ended = false;   // handed back, kept only until in_flight is 0
  bool stop_asked = false;
  bool resident = false;  // in the running list; else it waits

  int cached_tokens = 0;
  int preemptions = 0;
  bool ever_ran = false;
  int reached = 0;  // most tokens that were ever computed; below it, computing is computing again
  std::int64_t recomputed = 0;
  std::uint64_t first_step = 0;
  std::uint64_t first_token = 0;

  int known() const { return static_cast<int>(tokens.size()); }
  int total() const { return known() + pending; }
  int output_tokens() const { return known() - prompt_tokens; }
  bool prefilling() const { return computed < prefill_end; }
  bool wants_decode() const { return !prefilling() && total() < final_tokens; }
};

inline BlockTokens block_tokens(const Sequence& sequence, int index) {
  return BlockTokens(sequence.tokens.data() + static_cast<std::size_t>(index) * kKvBlockTokens,
                     kKvBlockTokens);
}

}  // namespace nightshift::scheduler
