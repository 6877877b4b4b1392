// SPDX-License-Identifier: Apache-2.0
#include "model/step_buffers.h"

#include "core/check.h"

namespace nightshift::model {

StepBuffers::StepBuffers(const ModelConfig& config, const StepLimits& limits, kernels::Backend& backend) {
  const ModelShape& s = config.shape;
  const std::int64_t tokens = limits.max_query_tokens, samples = limits.max_sampled_rows;
  const std::int64_t q_width = static_cast<std::int64_t>(s.heads) * s.head_dim;
  ids = backend.matrix<TokenId>(1, tokens, "model::ids");
  residual = backend.matrix<float>(tokens, s.hidden, "model::residual");
  normed = backend.matrix<bf16>(tokens, s.hidden, "model::normed");
  qkv = backend.matrix<float>(tokens, q_width + 2LL * s.kv_heads * s.head_dim, "model::qkv");
  q = backend.matrix<bf16>(tokens, q_width, "model::q");
  attended = backend.matrix<bf16>(tokens, q_width, "model::attended");
  activated = backend.matrix<bf16>(tokens, s.intermediate, "model::activated");
  if (config.mlp_bias) {
    gate = backend.matrix<float>(tokens, s.intermediate, "model::gate");
    up = backend.matrix<float>(tokens, s.intermediate, "model::up");
  }
  sampled_rows = backend.matrix<std::int32_t>(1, samples, "model::sampled_rows");
  sampled = backend.matrix<float>(samples, s.hidden, "model::sampled");
  sampled_normed = backend.matrix<bf16>(samples, s.hidden, "model::sampled_normed");
  logits = backend.matrix<float>(samples, s.vocab, "model::logits");
}

std::int64_t StepBuffers::bytes() const {
  const auto size = [](const auto& matrix) {
    return matrix.rows() * matrix.cols() * static_cast<std::int64_t>(sizeof(*matrix.data()));
  };
  return size(ids) + size(residual) + size(normed) + size(qkv) + size(q) + size(attended) + size(activated) +
         size(gate) + size(up) + size(sampled_rows) + size(sampled) + size(sampled_normed) + size(logits);
}

namespace {

void check_sequence(const PlannedSequence& sequence, const ModelConfig& config, const StepLimits& limits) {
  const std::int64_t end = static_cast<std::int64_t>(sequence.computed) + sequence.num_tokens;
  NS_CHECK(sequence.num_tokens > 0 && sequence.computed >= 0, "sequence {}: {} tokens after {}", sequence.id,
           sequence.num_tokens, sequence.computed);
  NS_CHECK(end <= limits.max_context, "sequence {}: {} tokens exceed max_context {}", sequence.id, end,
           limits.max_context);
  NS_CHECK(static_cast<std::int64_t>(sequence.tokens.size()) >= end, "sequence {}: {} of {} tokens known",
           sequence.id, sequence.tokens.size(), end);
  NS_CHECK(static_cast<std::int64_t>(sequence.blocks.size()) * kKvBlockTokens >= end,
           "sequence {}: {} KV blocks for {} tokens", sequence.id, sequence.blocks.size(), end);
  NS_CHECK(!sequence.samples || sequence.sampling != nullptr, "sequence {} samples without parameters",
           sequence.id);
  for (std::int64_t i = sequence.computed; i < end; ++i) {
    const TokenId id = sequence.tokens[static_cast<std::size_t>(i)];
    NS_CHECK(id >= 0 && id < config.shape.vocab, "sequence {}: token {} at {} is not in a vocabulary of {}",
             sequence.id, id, i, config.shape.vocab);
  }
}

}  // namespace

void fill_batch(const BatchPlan& plan, const ModelConfig& config, const StepLimits& limits,
                StepBatch& batch) {
  batch.ids.clear();
  batch.slices.clear();
  batch.sampled_rows.clear();
  batch.sampling.clear();
  for (const PlannedSequence& sequence : plan.sequences) {
    check_sequence(sequence, config, limits);
    batch.slices.push_back({.first_row = static_cast<std::int64_t>(batch.ids.size()),
                            .num_tokens = sequence.num_tokens,
                            .start = sequence.computed,
                            .blocks = sequence.blocks});
    const auto query = sequence.tokens.subspan(static_cast<std::size_t>(sequence.computed),
                                               static_cast<std::size_t>(sequence.num_tokens));
    batch.ids.insert(batch.ids.end(), query.begin(), query.end());
    if (!sequence.samples) continue;
    batch.sampled_rows.push_back(static_cast<std::int32_t>(batch.ids.size()) - 1);
    batch.sampling.push_back(&sequence);
  }
  NS_CHECK(static_cast<std::int64_t>(batch.ids.size()) <= limits.max_query_tokens,
           "{} query tokens, at most {}", batch.ids.size(), limits.max_query_tokens);
  NS_CHECK(static_cast<std::int64_t>(batch.sampling.size()) <= limits.max_sampled_rows,
           "{} sampling sequences, at most {}", batch.sampling.size(), limits.max_sampled_rows);
}

}  // namespace nightshift::model
