// SPDX-License-Identifier: Apache-2.0
#include "model/step_buffers.h"

#include <algorithm>
#include <bit>

#include "core/check.h"

namespace nightshift::model {

namespace {

// Elements of the larger of the two layouts' matrices.
template <class F>
std::int64_t larger(const Shard& base, const Shard& shift, const F& elements) {
  return std::max<std::int64_t>(elements(base), elements(shift));
}

}  // namespace

StepBuffers::StepBuffers(const ModelConfig& config, const StepLimits& limits, const Shard& base,
                         const Shard& shift, kernels::Backend& backend) {
  const ModelShape& s = config.shape;
  const int chunks = base.sequence * base.tensor;
  const QkvChunk chunk = qkv_chunk(s, chunks);
  const std::int64_t tokens = limits.max_query_tokens, samples = limits.max_sampled_rows;
  const std::int64_t width = static_cast<std::int64_t>(chunk.heads + 2 * chunk.kv_heads) * s.head_dim;
  const std::int64_t q_width = static_cast<std::int64_t>(chunk.heads) * s.head_dim;
  // The shift layout's slice is the whole step.
  const auto slice = [&](const Shard& shard) { return parallel::slice_of(tokens, shard.sequence, 0).size(); };
  const std::int64_t rows = larger(base, shift, slice);
  const auto flat = [&]<class T>(kernels::Matrix<T>& matrix, std::int64_t elements, const char* label) {
    matrix = backend.matrix<T>(1, elements, label);
  };

  ids = backend.matrix<TokenId>(1, rows, "model::ids");
  pending = backend.matrix<kernels::PendingId>(1, rows, "model::pending");
  residual = backend.matrix<float>(rows, s.hidden, "model::residual");
  normed = backend.matrix<bf16>(rows, s.hidden, "model::normed");
  flat(qkv, larger(base, shift, [&](const Shard& l) { return slice(l) * l.sequence * chunk.rows; }),
       "model::qkv");
  flat(qkv_out, larger(base, shift, [&](const Shard& l) { return slice(l) * l.sequence * width; }),
       "model::qkv_out");
  flat(attended, tokens * q_width, "model::attended");
  if (base.sequence > 1) {
    flat(qkv_in, tokens * width, "model::qkv_in");
    flat(returned, slice(base) * base.sequence * q_width, "model::returned");
    flat(o_input, slice(base) * base.sequence * q_width, "model::o_input");
  }
  flat(activated, larger(base, shift, [&](const Shard& l) { return slice(l) * l.mlp_columns.size(); }),
       "model::activated");
  if (shift.tensor > 1 || base.tensor > 1) {
    partial = backend.matrix<float>(rows, s.hidden, "model::partial");
    flat(parts, (rows + chunks) * s.hidden, "model::parts");
  }
  const int own = base.t * base.sequence + base.s;
  const parallel::Range vocabulary = parallel::vocab_of(own, chunks, s.vocab, kernels::kPanelRows);
  sampled_rows = backend.matrix<std::int32_t>(1, samples, "model::sampled_rows");
  sampled = backend.matrix<float>(samples, s.hidden, "model::sampled");
  sampled_normed = backend.matrix<bf16>(samples, s.hidden, "model::sampled_normed");
  logits = backend.matrix<float>(samples, vocabulary.size(), "model::logits");
}

std::int64_t StepBuffers::bytes() const {
  const auto size = [](const auto&... matrix) {
    return ((matrix.rows() * matrix.cols() * static_cast<std::int64_t>(sizeof(*matrix.data()))) + ...);
  };
  return size(ids, pending, residual, normed, qkv, qkv_out, qkv_in, attended, returned, o_input, activated,
              partial, parts, sampled_rows, sampled, sampled_normed, logits);
}

namespace {

void check_sequence(const PlannedSequence& sequence, const ModelConfig& config, const StepLimits& limits) {
  const std::int64_t end = static_cast<std::int64_t>(sequence.computed) + sequence.num_tokens;
  NS_CHECK(sequence.num_tokens > 0 && sequence.computed >= 0, "sequence {}: {} tokens after {}", sequence.id,
           sequence.num_tokens, sequence.computed);
  NS_CHECK(end <= limits.max_context, "sequence {}: {} tokens exceed max_context {}", sequence.id, end,
           limits.max_context);
  NS_CHECK(static_cast<std::int64_t>(sequence.blocks.size()) * kKvBlockTokens >= end,
           "sequence {}: {} KV blocks for {} tokens", sequence.id, sequence.blocks.size(), end);
  NS_CHECK(!sequence.samples || sequence.sampling != nullptr, "sequence {} samples without parameters",
           sequence.id);
  const std::int64_t known = std::min(end, static_cast<std::int64_t>(sequence.tokens.size()));
  for (std::int64_t i = sequence.computed; i < known; ++i) {
    const TokenId id = sequence.tokens[static_cast<std::size_t>(i)];
    NS_CHECK(id >= 0 && id < config.shape.vocab, "sequence {}: token {} at {} is not in a vocabulary of {}",
             sequence.id, id, i, config.shape.vocab);
  }
}

// Where the step before has the token that this sequence's last query token will be; -1: it is known.
std::int32_t pending_source(const PlannedSequence& sequence, const SampledIndex& before) {
  const auto end = static_cast<std::size_t>(sequence.computed + sequence.num_tokens);
  if (sequence.tokens.size() >= end) return -1;
  const auto found = before.find(sequence.id);
  NS_CHECK(sequence.tokens.size() + 1 == end && found != before.end(),
           "sequence {}: {} of {} tokens known, and the step before samples none for it", sequence.id,
           sequence.tokens.size(), end);
  return found->second;
}

}  // namespace

void fill_batch(const BatchPlan& plan, const ModelConfig& config, const StepLimits& limits,
                const SampledIndex& before, StepBatch& batch) {
  batch.ids.clear();
  batch.slices.clear();
  batch.sampled_rows.clear();
  batch.sampling.clear();
  batch.pending.clear();
  batch.pending_of.clear();
  for (const PlannedSequence& sequence : plan.sequences) {
    check_sequence(sequence, config, limits);
    batch.slices.push_back({.first_row = static_cast<std::int64_t>(batch.ids.size()),
                            .num_tokens = sequence.num_tokens,
                            .start = sequence.computed,
                            .blocks = sequence.blocks});
    const std::int32_t source = pending_source(sequence, before);
    const auto query =
        sequence.tokens.subspan(static_cast<std::size_t>(sequence.computed),
                                static_cast<std::size_t>(sequence.num_tokens - (source < 0 ? 0 : 1)));
    batch.ids.insert(batch.ids.end(), query.begin(), query.end());
    if (source >= 0) {
      batch.pending.push_back({static_cast<std::int32_t>(batch.ids.size()), source});
      batch.ids.push_back(0);
    }
    if (!sequence.samples) continue;
    batch.sampled_rows.push_back(static_cast<std::int32_t>(batch.ids.size()) - 1);
    batch.sampling.push_back(&sequence);
    batch.pending_of.push_back(source);
  }
  NS_CHECK(static_cast<std::int64_t>(batch.ids.size()) <= limits.max_query_tokens,
           "{} query tokens, at most {}", batch.ids.size(), limits.max_query_tokens);
  NS_CHECK(static_cast<std::int64_t>(batch.sampling.size()) <= limits.max_sampled_rows,
           "{} sampling sequences, at most {}", batch.sampling.size(), limits.max_sampled_rows);
}

namespace {

// 1, 2, 4, 8, then multiples of 8, 16 and 32: at most an eighth too many from 64 rows on.
std::int64_t rounded_rows(std::int64_t rows) {
  const auto wide = static_cast<std::uint64_t>(rows);
  if (rows <= 8) return static_cast<std::int64_t>(std::bit_ceil(wide));
  const std::int64_t unit = rows <= 64 ? 8 : rows <= 256 ? 16 : 32;
  return (rows + unit - 1) / unit * unit;
}

}  // namespace

void pad_decodes(StepBatch& batch, const StepLimits& limits, std::span<const BlockId> block) {
  const auto rows = static_cast<std::int64_t>(batch.ids.size());
  const std::int64_t padded =
      std::min<std::int64_t>({rounded_rows(rows), limits.max_query_tokens, limits.max_sampled_rows});
  for (std::int64_t row = rows; row < padded; ++row) {
    batch.ids.push_back(0);
    batch.slices.push_back({.first_row = row, .num_tokens = 1, .start = 0, .blocks = block});
    batch.sampled_rows.push_back(static_cast<std::int32_t>(row));
  }
}

}  // namespace nightshift::model
