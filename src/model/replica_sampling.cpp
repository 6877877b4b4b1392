// SPDX-License-Identifier: Apache-2.0
#include "model/replica_sampling.h"

#include <utility>

#include "model/token_messages.h"

namespace nightshift::model {

namespace {

using parallel::slice_of;
using parallel::Traffic;

constexpr auto kFloat = static_cast<std::int64_t>(sizeof(float));

// Copies of fp32 are copies of twice as many halves.
template <class To, class From>
kernels::MatrixView<To> halves(const kernels::MatrixView<From>& m) {
  return {reinterpret_cast<To*>(m.data), m.rows, 2 * m.cols, 2 * m.stride};
}

void copy(kernels::Backend& backend, kernels::MatrixView<const float> from, kernels::MatrixView<float> to) {
  backend.copy(halves<const bf16>(from), halves<bf16>(to));
}

}  // namespace

ReplicaSampling::ReplicaSampling(const Sampler& sampler, const parallel::Communicator* ranks,
                                 Collectives* group, int vocab, int max_rows, int slots,
                                 kernels::Backend& backend)
    : ranks_(ranks),
      group_(group),
      backend_(backend),
      sampling_(sampler, backend, max_rows, slots),
      asked_(static_cast<std::size_t>(slots)) {
  if (group_ == nullptr) return;
  for (int r = 0; r < group_->size(); ++r)
    chunks_.push_back(parallel::vocab_of(r, group_->size(), vocab, kernels::kPanelRows));
  const std::int64_t most = slice_of(max_rows, group_->size(), 0).size();
  received_ = backend.matrix<float>(1, most * vocab, "model::received_logits");
  rows_ = backend.matrix<float>(most, vocab, "model::whole_logits");
  for (int slot = 0; slot < slots; ++slot)
    tokens_.push_back(backend.matrix<TokenId>(1, max_rows, "model::sampled_tokens"));
}

void ReplicaSampling::start(int slot, kernels::MatrixView<float> logits,
                            std::span<const PlannedSequence* const> rows,
                            std::span<const std::int32_t> pending, const TokenId* previous_tokens) {
  if (group_ == nullptr) return sampling_.start(slot, logits, rows, pending, previous_tokens);
  const auto at = static_cast<std::size_t>(slot);
  asked_[at].assign(rows.begin(), rows.end());
  const parallel::Range own = slice_of(logits.rows, group_->size(), group_->rank());
  const auto begin = static_cast<std::size_t>(own.begin), count = static_cast<std::size_t>(own.size());
  sampling_.start(slot, whole_rows(logits, own), rows.subspan(begin, count), pending.subspan(begin, count),
                  previous_tokens);
  share_tokens(slot, logits.rows, own);
}

// This rank's rows, put together from everybody's chunks.
kernels::MatrixView<float> ReplicaSampling::whole_rows(kernels::MatrixView<const float> logits,
                                                       const parallel::Range& own) {
  const int ranks = group_->size();
  send_bytes_.clear();
  receive_bytes_.clear();
  for (int r = 0; r < ranks; ++r) {
    send_bytes_.push_back(slice_of(logits.rows, ranks, r).size() * logits.cols * kFloat);
    receive_bytes_.push_back(own.size() * chunks_[static_cast<std::size_t>(r)].size() * kFloat);
  }
  group_->all_to_all(Traffic::sampling, logits.data, send_bytes_, received_.data(), receive_bytes_);
  const auto whole = rows_.view().rows_from(0, own.size());
  const float* from = received_.data();
  for (const parallel::Range& chunk : chunks_) {
    copy(backend_, {from, own.size(), chunk.size()}, whole.cols_from(chunk.begin, chunk.size()));
    from += own.size() * chunk.size();
  }
  return whole;
}

void ReplicaSampling::share_tokens(int slot, std::int64_t rows, const parallel::Range& own) {
  const auto as_floats = [](const TokenId* ids) { return reinterpret_cast<const float*>(ids); };
  TokenId* const all = tokens_[static_cast<std::size_t>(slot)].data();
  copy(backend_, {as_floats(sampling_.tokens(slot)), 1, own.size()},
       {reinterpret_cast<float*>(all + own.begin), 1, own.size()});
  send_bytes_.clear();
  for (int r = 0; r < group_->size(); ++r)
    send_bytes_.push_back(slice_of(rows, group_->size(), r).size() *
                          static_cast<std::int64_t>(sizeof(TokenId)));
  group_->all_gather(Traffic::sampling, all, send_bytes_);
}

std::vector<SampledToken> ReplicaSampling::result(int slot) {
  std::vector<SampledToken> mine = sampling_.result(slot);
  if (group_ == nullptr) return mine;
  const auto& rows = asked_[static_cast<std::size_t>(slot)];
  std::vector<SampledToken> tokens(rows.size());
  const parallel::Range own =
      slice_of(static_cast<std::int64_t>(rows.size()), group_->size(), group_->rank());
  std::move(mine.begin(), mine.end(), tokens.begin() + own.begin);
  share_slices(*ranks_, rows, tokens);
  return tokens;
}

const TokenId* ReplicaSampling::tokens(int slot) const {
  return group_ == nullptr ? sampling_.tokens(slot) : tokens_[static_cast<std::size_t>(slot)].data();
}

}  // namespace nightshift::model
