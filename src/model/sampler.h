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
//
// Where ranks hold parts of the vocabulary, greedy rows and small top-k are decided by the largest few of
// every part: candidates() on each rank, choose() on all of them gives the token that sample() finds in the
// whole row.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/types.h"

namespace nightshift::model {

// Temperatures below this are greedy.
inline constexpr double kGreedyTemperature = 1e-5;

// Most of a part's logits that a row may want as candidates; larger top-k wants whole rows.
inline constexpr int kMostCandidates = 64;

struct Candidate {
  float logit;
  TokenId id;
};
// Larger logits first, lower ids first among equals.
constexpr bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

class Sampler {
 public:
  // Working memory of one thread, grown on first use and kept.
  struct Scratch {
    std::vector<float> logits;         // [vocab]
    std::vector<float> weights;        // [vocab]
    std::vector<std::int32_t> counts;  // [vocab], zero between calls
    std::vector<TokenId> touched;
    std::vector<Candidate> candidates;
  };

  // Tokens are 0 .. vocab - 1, whatever the width of the logits; stop_ids are the model's own.
  Sampler(int vocab, std::vector<TokenId> stop_ids);

  // logits: at least `vocab` values. A row that holds a NaN or +infinity, or no finite value, gives token -1:
  // the sequence fails with reason nan_logits (SampledToken::failed()).
  SampledToken sample(std::span<const float> logits, const PlannedSequence& sequence, Scratch& scratch) const;

  // Candidates per part that decide this row's token; 0: only the whole row does.
  static int candidates_needed(const PlannedSequence& sequence);
  // Of the logits of tokens first .. first + part.size() - 1: the out.size() most likely after masks and
  // penalties, best first, filled up with -infinity. False: the part makes the row unusable.
  bool candidates(std::span<const float> part, TokenId first, const PlannedSequence& sequence,
                  Scratch& scratch, std::span<Candidate> out) const;
  // all: the candidates of all parts, in any order; sorted here.
  SampledToken choose(std::span<Candidate> all, const PlannedSequence& sequence) const;

  int vocab() const { return vocab_; }
  const std::vector<TokenId>& stop_ids() const { return stop_ids_; }

 private:
  std::span<const float> changed(std::span<const float> logits, TokenId first,
                                 const PlannedSequence& sequence, Scratch& scratch) const;

  int vocab_;
  std::vector<TokenId> stop_ids_;
};

}  // namespace nightshift::model
