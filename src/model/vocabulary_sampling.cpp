// SPDX-License-Identifier: Apache-2.0
#include "model/vocabulary_sampling.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "kernels/team.h"
#include "model/token_messages.h"

namespace nightshift::model {

namespace {

constexpr double kSampleNanoseconds = 0.5;  // of one logit, roughly

using parallel::slice_of;
using parallel::Traffic;

// A row's part of a candidates message: whether it is usable, then the candidates.
struct CandidateRow {
  std::int32_t usable;
};
std::size_t candidate_bytes(int candidates) {
  return sizeof(CandidateRow) + static_cast<std::size_t>(candidates) * sizeof(Candidate);
}

}  // namespace

VocabularySampling::VocabularySampling(const Sampler& sampler, const parallel::DeviceMesh* mesh, int vocab,
                                       int threads)
    : sampler_(sampler), vocab_(vocab), threads_(threads), scratch_(static_cast<std::size_t>(threads)) {
  const int ranks = mesh == nullptr ? 1 : mesh->degrees().ranks();
  if (ranks > 1) group_ = &mesh->tensor_group(parallel::Layout::shift);
  rank_ = group_ == nullptr ? 0 : group_->rank();
  for (int r = 0; r < ranks; ++r) chunks_.push_back(parallel::vocab_of(r, ranks, vocab, kernels::kPanelRows));
}

std::vector<SampledToken> VocabularySampling::sample(kernels::MatrixView<const float> logits,
                                                     std::span<const PlannedSequence* const> rows) {
  std::vector<SampledToken> tokens(rows.size());
  if (group_ == nullptr) {
    const double nanoseconds = kSampleNanoseconds * static_cast<double>(logits.rows * logits.cols);
    kernels::for_each_tile(
        "model::sample", threads_, logits.rows, nanoseconds, [&](int worker, std::int64_t i) {
          const auto row = static_cast<std::size_t>(i);
          tokens[row] = sampler_.sample({logits.row(i), static_cast<std::size_t>(logits.cols)}, *rows[row],
                                        scratch_[static_cast<std::size_t>(worker)]);
        });
    return tokens;
  }
  sample_candidates(logits, rows, tokens);
  sample_whole_rows(logits, rows, tokens);
  return tokens;
}

void VocabularySampling::sample_candidates(kernels::MatrixView<const float> logits,
                                           std::span<const PlannedSequence* const> rows,
                                           std::span<SampledToken> tokens) {
  std::vector<std::size_t> offsets{0};  // of every row in a rank's message
  for (const PlannedSequence* row : rows) {
    const int needed = Sampler::candidates_needed(*row);
    offsets.push_back(offsets.back() + (needed == 0 ? 0 : candidate_bytes(needed)));
  }
  const std::size_t bytes = offsets.back();
  if (bytes == 0) return;
  message_.resize(bytes * static_cast<std::size_t>(ranks()));
  const auto part = [&](int rank, std::size_t row) {
    return message_.data() + bytes * static_cast<std::size_t>(rank) + offsets[row];
  };
  const double nanoseconds = kSampleNanoseconds * static_cast<double>(logits.rows * logits.cols);
  kernels::for_each_tile(
      "model::candidates", threads_, logits.rows, nanoseconds, [&](int worker, std::int64_t i) {
        const auto row = static_cast<std::size_t>(i);
        const int needed = Sampler::candidates_needed(*rows[row]);
        if (needed == 0) return;
        std::array<Candidate, kMostCandidates> found;
        const auto out = std::span(found).first(static_cast<std::size_t>(needed));
        const CandidateRow head{sampler_.candidates({logits.row(i), static_cast<std::size_t>(logits.cols)},
                                                    static_cast<TokenId>(own().begin), *rows[row],
                                                    scratch_[static_cast<std::size_t>(worker)], out)};
        std::memcpy(part(rank_, row), &head, sizeof head);
        std::memcpy(part(rank_, row) + sizeof head, out.data(), out.size_bytes());
      });
  const std::vector<std::int64_t> sizes(chunks_.size(), static_cast<std::int64_t>(bytes));
  group_->all_gather(Traffic::sampling, message_.data(), sizes);

  std::vector<Candidate> all;
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const auto needed = static_cast<std::size_t>(Sampler::candidates_needed(*rows[row]));
    if (needed == 0) continue;
    all.resize(needed * chunks_.size());
    bool usable = true;
    for (int r = 0; r < ranks(); ++r) {
      CandidateRow head;
      std::memcpy(&head, part(r, row), sizeof head);
      usable = usable && head.usable != 0;
      std::memcpy(all.data() + needed * static_cast<std::size_t>(r), part(r, row) + sizeof head,
                  needed * sizeof(Candidate));
    }
    tokens[row] = sampler_.choose(usable ? std::span(all) : std::span<Candidate>(), *rows[row]);
  }
}

// Row i of the whole ones is put together and sampled on the rank whose slice of them holds it.
void VocabularySampling::sample_whole_rows(kernels::MatrixView<const float> logits,
                                           std::span<const PlannedSequence* const> rows,
                                           std::span<SampledToken> tokens) {
  std::vector<std::size_t> whole;
  for (std::size_t row = 0; row < rows.size(); ++row)
    if (Sampler::candidates_needed(*rows[row]) == 0) whole.push_back(row);
  if (whole.empty()) return;
  const auto count = static_cast<std::int64_t>(whole.size());
  const parallel::Range mine = slice_of(count, ranks(), rank_);
  const std::vector<float> assembled = collect_rows(logits, whole);  // [mine, vocab]
  const double nanoseconds = kSampleNanoseconds * static_cast<double>(mine.size() * vocab_);
  kernels::for_each_tile(
      "model::sample", threads_, mine.size(), nanoseconds, [&](int worker, std::int64_t i) {
        const std::size_t row = whole[static_cast<std::size_t>(mine.begin + i)];
        const auto width = static_cast<std::size_t>(vocab_);
        tokens[row] = sampler_.sample({assembled.data() + static_cast<std::size_t>(i) * width, width},
                                      *rows[row], scratch_[static_cast<std::size_t>(worker)]);
      });

  std::vector<SampledToken> shared(whole.size());
  std::vector<const PlannedSequence*> of(whole.size());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    of[i] = rows[whole[i]];
    shared[i] = std::move(tokens[whole[i]]);
  }
  share_slices(*group_, of, shared);
  for (std::size_t i = 0; i < whole.size(); ++i) tokens[whole[i]] = std::move(shared[i]);
}

// Sends this rank's chunk of every whole row to the rank that samples it; returns this rank's rows [, vocab].
std::vector<float> VocabularySampling::collect_rows(kernels::MatrixView<const float> logits,
                                                    std::span<const std::size_t> whole) {
  const auto count = static_cast<std::int64_t>(whole.size());
  const std::int64_t mine = slice_of(count, ranks(), rank_).size();
  const auto width = static_cast<std::size_t>(own().size());
  constexpr auto kFloat = static_cast<std::int64_t>(sizeof(float));
  std::vector<float> send(whole.size() * width);
  for (std::size_t i = 0; i < whole.size(); ++i)
    std::copy_n(logits.row(static_cast<std::int64_t>(whole[i])), width, send.data() + i * width);
  std::vector<std::int64_t> send_bytes, receive_bytes;
  for (int r = 0; r < ranks(); ++r) {
    send_bytes.push_back(slice_of(count, ranks(), r).size() * own().size() * kFloat);
    receive_bytes.push_back(mine * chunks_[static_cast<std::size_t>(r)].size() * kFloat);
  }
  std::vector<float> received(static_cast<std::size_t>(mine) * static_cast<std::size_t>(vocab_));
  group_->all_to_all(Traffic::sampling, send.data(), send_bytes, received.data(), receive_bytes);

  std::vector<float> rows(received.size());
  const float* from = received.data();
  for (const parallel::Range& chunk : chunks_)
    for (std::int64_t i = 0; i < mine; ++i, from += chunk.size())
      std::copy_n(from, chunk.size(), rows.data() + i * vocab_ + chunk.begin);
  return rows;
}

std::vector<float> VocabularySampling::whole_row(std::span<const float> part) const {
  if (group_ == nullptr) return {part.begin(), part.end()};
  std::vector<float> row(static_cast<std::size_t>(vocab_));
  std::copy(part.begin(), part.end(), row.begin() + own().begin);
  std::vector<std::int64_t> sizes;
  for (const parallel::Range& chunk : chunks_)
    sizes.push_back(chunk.size() * static_cast<std::int64_t>(sizeof(float)));
  group_->all_gather(Traffic::sampling, row.data(), sizes);
  return row;
}

}  // namespace nightshift::model
