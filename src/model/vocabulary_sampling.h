// SPDX-License-Identifier: Apache-2.0
// Sampling where every rank of a replica holds the logits of its chunk of the vocabulary. Greedy rows and
// small top-k travel as a few candidates per rank; a row that needs its whole distribution (top-p, min-p
// alone, log-probabilities) is put together on one rank, which sends the token to the others. All ranks end
// with the same tokens: those that one rank would have drawn from the whole row.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "model/sampler.h"
#include "parallel/parallel.h"

namespace nightshift::model {

class VocabularySampling {
 public:
  // mesh null: this rank holds whole rows. vocab: columns of a whole row, padding included.
  VocabularySampling(const Sampler& sampler, const parallel::DeviceMesh* mesh, int vocab, int threads);

  // logits [rows.size(), this rank's chunk], in host memory. Collective over the replica.
  std::vector<SampledToken> sample(kernels::MatrixView<const float> logits,
                                   std::span<const PlannedSequence* const> rows);
  // One row of logits from all chunks [vocab]. Collective.
  std::vector<float> whole_row(std::span<const float> part) const;

 private:
  struct WholeRow {
    std::size_t row;  // of the step
    int tokens;       // room for logprobs in its message
  };
  int ranks() const { return static_cast<int>(chunks_.size()); }
  const parallel::Range& own() const { return chunks_[static_cast<std::size_t>(rank_)]; }

  void sample_candidates(kernels::MatrixView<const float> logits,
                         std::span<const PlannedSequence* const> rows, std::span<SampledToken> tokens);
  void sample_whole_rows(kernels::MatrixView<const float> logits,
                         std::span<const PlannedSequence* const> rows, std::span<SampledToken> tokens);
  std::vector<float> collect_rows(kernels::MatrixView<const float> logits,
                                  std::span<const std::size_t> whole);

  const Sampler& sampler_;
  const parallel::Communicator* group_ = nullptr;  // in order of chunks
  int rank_ = 0;
  std::vector<parallel::Range> chunks_;  // of the vocabulary, by rank
  int vocab_;
  int threads_;
  std::vector<Sampler::Scratch> scratch_;  // [threads]
  std::vector<std::byte> message_;
};

}  // namespace nightshift::model
