// SPDX-License-Identifier: Apache-2.0
// From one row of logits to one token. A pure function of the row, the sequence's own tokens and parameters,
// and its random key, so a sequence samples the same in any company.
//
// Order of operations, as in vLLM: mask ids that are no tokens, and stop ids before min_tokens; repetition
// penalty (Keskar et al. 2019) over prompt and output, then frequency and presence penalty over the output;
// greedy, or: temperature, min-p, top-k, top-p (Holtzman et al. 2020, the smallest set of most likely tokens
// that reaches p), and one uniform number inverts the cumulative distribution over the kept tokens in
// ascending id. Ties always go to the lower id. Log-probabilities are those of the unmodified distribution
// (before all of this) over real tokens.
//
// Exponentials are the kernels' own: those of C libraries differ from machine to machine.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/types.h"

namespace nightshift::model {

// Temperatures below this are greedy.
inline constexpr double kGreedyTemperature = 1e-5;

class Sampler {
 public:
  // Working memory of one thread, grown on first use and kept.
  struct Scratch {
    std::vector<float> logits;         // [vocab]
    std::vector<float> weights;        // [vocab]
    std::vector<std::int32_t> counts;  // [vocab], zero between calls
    std::vector<TokenId> touched;
    std::vector<std::pair<float, TokenId>> candidates;
  };

  // Tokens are 0 .. vocab - 1, whatever the width of the logits; stop_ids are the model's own.
  Sampler(int vocab, std::vector<TokenId> stop_ids);

  // logits: at least `vocab` values. A row that holds a NaN or +infinity, or no finite value, gives token -1:
  // the sequence fails with reason nan_logits (SampledToken::failed()).
  SampledToken sample(std::span<const float> logits, const PlannedSequence& sequence, Scratch& scratch) const;

  int vocab() const { return vocab_; }

 private:
  void mask_stops(const PlannedSequence& sequence, std::span<float> logits) const;

  int vocab_;
  std::vector<TokenId> stop_ids_;
};

}  // namespace nightshift::model
