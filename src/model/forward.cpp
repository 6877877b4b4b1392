// SPDX-License-Identifier: Apache-2.0
#include "model/forward.h"

#include <cmath>

#include "core/check.h"

namespace nightshift::model {

namespace {

template <class T>
kernels::MatrixView<T> rows_of(const kernels::Matrix<T>& matrix, std::int64_t rows) {
  return matrix.view().rows_from(0, rows);
}

// One vector as every row of a matrix.
kernels::MatrixView<const float> repeated(const Vector& vector, std::int64_t rows) {
  return {vector.data(), rows, vector.cols(), 0};
}

}  // namespace

ForwardPass::ForwardPass(const ModelConfig& config, const PackedWeights& weights, const StepLimits& limits,
                         kernels::Backend& backend)
    : config_(config),
      weights_(weights),
      limits_(limits),
      backend_(backend),
      cache_(backend.make_kv_cache({.layers = config.shape.layers,
                                    .kv_heads = config.shape.kv_heads,
                                    .head_dim = config.shape.head_dim,
                                    .blocks = limits.kv_blocks})),
      buffers_(config, limits, backend),
      layout_{.shape = {config.shape.heads, config.shape.kv_heads, config.shape.head_dim}, .groups = 1},
      attention_bounds_(attention_bounds(config.shape)),
      mlp_bounds_(mlp_bounds(config.shape)),
      eps_(static_cast<float>(config.rms_norm_eps)) {
  make_rope_tables();
}

void ForwardPass::make_rope_tables() {
  const RopeFrequencies rope = rope_frequencies(config_.rope, config_.shape.head_dim, limits_.max_context);
  const auto pairs = static_cast<std::int64_t>(rope.inverse.size());
  cos_ = backend_.matrix<float>(limits_.max_context, pairs, "model::rope_cos");
  sin_ = backend_.matrix<float>(limits_.max_context, pairs, "model::rope_sin");
  std::vector<float> cosines(rope.inverse.size()), sines(rope.inverse.size());
  for (std::int64_t position = 0; position < limits_.max_context; ++position) {
    for (std::size_t j = 0; j < rope.inverse.size(); ++j) {
      const double angle = static_cast<double>(position) * static_cast<double>(rope.inverse[j]);
      cosines[j] = static_cast<float>(std::cos(angle)) * rope.scale;
      sines[j] = static_cast<float>(std::sin(angle)) * rope.scale;
    }
    backend_.copy_to_device(cos_.view().row(position), cosines.data(), cosines.size() * sizeof(float));
    backend_.copy_to_device(sin_.view().row(position), sines.data(), sines.size() * sizeof(float));
  }
}

kernels::MatrixView<float> ForwardPass::run(const StepBatch& batch) {
  const auto tokens = static_cast<std::int64_t>(batch.ids.size());
  const auto residual = rows_of(buffers_.residual, tokens);  // [T, hidden] fp32
  const auto attention = at(Op::other).prepare(batch.slices);
  backend_.copy_to_device(buffers_.ids.data(), batch.ids.data(), batch.ids.size() * sizeof(TokenId));
  if (config_.shape.tied_embeddings)
    at(Op::embed).embed(weights_.head().view(), buffers_.ids.data(), residual);
  else
    at(Op::embed).embed(weights_.embedding().view(), buffers_.ids.data(), residual);

  for (int layer = 0; layer < config_.shape.layers; ++layer) {
    attention_block(layer, *attention);
    mlp_block(layer, tokens);
  }
  const auto logits = head(batch);
  backend_.synchronize();
  timer_.stop();
  return logits;
}

void ForwardPass::attention_block(int layer, const kernels::AttentionBatch& batch) {
  const LayerWeights& w = weights_.layer(layer);
  const std::int64_t tokens = batch.rows();
  const auto residual = rows_of(buffers_.residual, tokens);  // [T, hidden] fp32
  const auto normed = rows_of(buffers_.normed, tokens);      // [T, hidden] bf16
  const auto qkv = rows_of(buffers_.qkv, tokens);            // [T, (heads + 2 kv_heads) head_dim] fp32
  const auto q = rows_of(buffers_.q, tokens);                // [T, heads head_dim] bf16
  const auto attended = rows_of(buffers_.attended, tokens);  // [T, heads head_dim] bf16
  const kernels::HeadNorm norm{w.q_norm.data(), w.k_norm.data(), eps_};
  const float scale = 1.0F / std::sqrt(static_cast<float>(config_.shape.head_dim));
  const int window = config_.windows[static_cast<std::size_t>(layer)];

  at(Op::norm).rms_norm(residual, w.attention_norm.data(), eps_, normed);
  at(Op::qkv).gemm(normed, w.qkv, qkv, w.qkv_bias.data());
  at(Op::rope).rope_append(qkv, layout_, batch, {cos_, sin_}, norm, q, cache_, layer);
  at(Op::attention).attention(q, layout_.shape, batch, cache_, layer, scale, window, attended);
  at(Op::o).gemm_reduced(attended, w.o, attention_bounds_, residual);
  if (w.o_bias.data() != nullptr) at(Op::o).add(repeated(w.o_bias, tokens), residual);
}

void ForwardPass::mlp_block(int layer, std::int64_t tokens) {
  const LayerWeights& w = weights_.layer(layer);
  const auto residual = rows_of(buffers_.residual, tokens);    // [T, hidden] fp32
  const auto normed = rows_of(buffers_.normed, tokens);        // [T, hidden] bf16
  const auto activated = rows_of(buffers_.activated, tokens);  // [T, intermediate] bf16

  at(Op::norm).rms_norm(residual, w.mlp_norm.data(), eps_, normed);
  if (!config_.mlp_bias) {
    at(Op::gate_up).gemm_silu_mul(normed, w.gate_up, activated);
  } else {
    const auto gate = rows_of(buffers_.gate, tokens),
               up = rows_of(buffers_.up, tokens);  // [T, intermediate] fp32
    at(Op::gate_up).gemm(normed, w.gate, gate, w.gate_bias.data());
    at(Op::gate_up).gemm(normed, w.up, up, w.up_bias.data());
    at(Op::gate_up).silu_mul(gate, up, activated);
  }
  at(Op::down).gemm_reduced(activated, w.down, mlp_bounds_, residual);
  if (w.down_bias.data() != nullptr) at(Op::down).add(repeated(w.down_bias, tokens), residual);
}

kernels::MatrixView<float> ForwardPass::head(const StepBatch& batch) {
  const auto samples = static_cast<std::int64_t>(batch.sampled_rows.size());
  const auto logits = rows_of(buffers_.logits, samples);  // [S, vocab] fp32
  if (samples == 0) return logits;
  const auto residual =
      rows_of(buffers_.residual, static_cast<std::int64_t>(batch.ids.size()));  // [T, hidden] fp32
  const auto sampled = rows_of(buffers_.sampled, samples);                      // [S, hidden] fp32
  const auto normed = rows_of(buffers_.sampled_normed, samples);                // [S, hidden] bf16
  backend_.copy_to_device(buffers_.sampled_rows.data(), batch.sampled_rows.data(),
                          batch.sampled_rows.size() * sizeof(std::int32_t));
  at(Op::head).gather_rows(residual, buffers_.sampled_rows.data(), sampled);
  at(Op::norm).rms_norm(sampled, weights_.final_norm().data(), eps_, normed);
  at(Op::head).gemm(normed, weights_.head(), logits);
  return logits;
}

}  // namespace nightshift::model
