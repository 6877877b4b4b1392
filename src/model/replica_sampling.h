// SPDX-License-Identifier: Apache-2.0
// Sampling on the GPUs of a replica: each takes a slice of the step's rows, over the whole vocabulary, and
// all of them have all tokens before the next step begins, without a word of the host.
#pragma once

#include <vector>

#include "model/collectives.h"
#include "model/device_sampling.h"

namespace nightshift::model {

class ReplicaSampling {
 public:
  // `ranks` and `group`: those of the replica in the order of their chunks, null where it is one rank. All
  // references must outlive this.
  ReplicaSampling(const Sampler& sampler, const parallel::Communicator* ranks, Collectives* group, int vocab,
                  int max_rows, int slots, kernels::Backend& backend);

  // logits [rows, this rank's chunk of the vocabulary], dense. Otherwise as DeviceSampling. Collective.
  void start(int slot, kernels::MatrixView<float> logits, std::span<const PlannedSequence* const> rows,
             std::span<const std::int32_t> pending, const TokenId* previous_tokens);
  std::vector<SampledToken> result(int slot);  // of all rows. Collective
  const TokenId* tokens(int slot) const;       // of all rows, in device memory

 private:
  kernels::MatrixView<float> whole_rows(kernels::MatrixView<const float> logits, const parallel::Range& own);
  void share_tokens(int slot, std::int64_t rows, const parallel::Range& own);

  const parallel::Communicator* ranks_;
  Collectives* group_;
  kernels::Backend& backend_;
  std::vector<parallel::Range> chunks_;  // of the vocabulary, by rank
  DeviceSampling sampling_;
  kernels::Matrix<float> received_;                         // flat: from each rank [own rows, its chunk]
  kernels::Matrix<float> rows_;                             // [own rows, vocab]
  std::vector<kernels::Matrix<TokenId>> tokens_;            // by slot: [1, rows]
  std::vector<std::vector<const PlannedSequence*>> asked_;  // by slot
  std::vector<std::int64_t> send_bytes_, receive_bytes_;
};

}  // namespace nightshift::model
