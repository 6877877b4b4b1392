// SPDX-License-Identifier: Apache-2.0
#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.h"

namespace nightshift::model {

namespace {

using parallel::Layout;
using parallel::slice_of;
using parallel::Traffic;

template <class T>
kernels::MatrixView<T> rows_of(const kernels::Matrix<T>& matrix, std::int64_t rows) {
  return matrix.view().rows_from(0, rows);
}

// A matrix of this shape at the beginning of a flat buffer.
template <class T>
kernels::MatrixView<T> shaped(const kernels::Matrix<T>& flat, std::int64_t rows, std::int64_t cols) {
  NS_DCHECK(rows * cols <= flat.cols(), "{} x {} in {} elements", rows, cols, flat.cols());
  return {flat.data(), rows, cols};
}

// One vector as every row of a matrix.
kernels::MatrixView<const float> repeated(const Vector& vector, std::int64_t rows) {
  return {vector.data(), rows, vector.cols(), 0};
}

parallel::Range own_vocabulary(const ModelShape& shape, const parallel::DeviceMesh* mesh) {
  const int chunks = mesh == nullptr ? 1 : mesh->degrees().ranks();
  return parallel::vocab_of(mesh == nullptr ? 0 : mesh->chunk(), chunks, shape.vocab, kernels::kPanelRows);
}

}  // namespace

ForwardPass::ForwardPass(const ModelConfig& config, const PackedWeights& weights, const StepLimits& limits,
                         const parallel::DeviceMesh* mesh, kernels::Backend& backend)
    : config_(config),
      weights_(weights),
      limits_(limits),
      backend_(backend),
      shards_{
          make_shard(config.shape, mesh, Layout::base),
          make_shard(config.shape, mesh,
                     kReductionShards % (mesh == nullptr ? 1 : mesh->degrees().ranks()) == 0 ? Layout::shift
                                                                                             : Layout::base)},
      chunk_(qkv_chunk(config.shape, mesh == nullptr ? 1 : mesh->degrees().ranks())),
      vocabulary_(own_vocabulary(config.shape, mesh)),
      heads_{chunk_.heads, chunk_.kv_heads, config.shape.head_dim},
      cache_(backend.make_kv_cache({.layers = config.shape.layers,
                                    .kv_heads = chunk_.kv_heads,
                                    .head_dim = config.shape.head_dim,
                                    .blocks = limits.kv_blocks})),
      buffers_(config, limits, shards_[0], shards_[1], backend),
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

kernels::MatrixView<float> ForwardPass::run(const StepBatch& batch, Layout layout) {
  const Shard& shard = this->shard(layout);
  const auto attention = at(Op::other).prepare(batch.slices);
  const parallel::Range slice = slice_of(attention->rows(), shard.sequence, shard.s);
  const Step step{shard, *attention, slice, rows_of(buffers_.residual, slice.size()),
                  rows_of(buffers_.normed, slice.size())};
  embed(batch, step);
  for (int layer = 0; layer < config_.shape.layers; ++layer) {
    if (on_layer_) on_layer_();
    attention_block(layer, step);
    mlp_block(layer, step);
  }
  const auto logits = head(batch, step);
  backend_.synchronize();
  timer_.stop();
  return logits;
}

void ForwardPass::embed(const StepBatch& batch, const Step& step) {
  const parallel::Range& part = step.shard.vocabulary;
  backend_.copy_to_device(buffers_.ids.data(), batch.ids.data() + step.slice.begin,
                          static_cast<std::size_t>(step.rows()) * sizeof(TokenId));
  const bool whole = step.shard.tensor == 1;
  const auto to = whole ? step.residual : rows_of(buffers_.partial, step.rows());
  const auto first = static_cast<TokenId>(part.begin);
  if (config_.shape.tied_embeddings)
    at(Op::embed).embed(weights_.head().view().columns(part.begin, part.size()), buffers_.ids.data(), to,
                        first);
  else
    at(Op::embed).embed(weights_.embedding().view().rows_from(part.begin, part.size()), buffers_.ids.data(),
                        to, first);
  if (whole) return;
  // A token's row comes from one rank and is -0.0 on all others, which changes no bit of a sum.
  backend_.fill(step.residual, -0.0F);
  add_over_ranks(Traffic::embedding, step);
}

void ForwardPass::attention_block(int layer, const Step& step) {
  const LayerWeights& w = weights_.layer(layer);
  const Shard& shard = step.shard;
  const std::int64_t q_width = static_cast<std::int64_t>(chunk_.heads) * config_.shape.head_dim;
  const kernels::QkvLayout layout{heads_, shard.sequence, chunk_.rows};
  const auto qkv =
      shaped(buffers_.qkv, step.rows(), shard.qkv_rows.size());  // [Ts, sequence * chunk_rows] fp32
  // [sequence * Ts, (Hc + 2 Hkvc) head_dim] bf16: what each owner of heads gets
  const auto out = shaped(buffers_.qkv_out, shard.sequence * step.rows(), layout.width());
  const auto attended = shaped(buffers_.attended, step.tokens(), q_width);  // [T, Hc head_dim] bf16
  const kernels::HeadNorm norm{w.q_norm.data(), w.k_norm.data(), eps_};
  const float scale = 1.0F / std::sqrt(static_cast<float>(config_.shape.head_dim));
  const int window = config_.windows[static_cast<std::size_t>(layer)];
  const float* bias = w.qkv_bias.data() == nullptr ? nullptr : w.qkv_bias.data() + shard.qkv_rows.begin;

  at(Op::norm).rms_norm(step.residual, w.attention_norm.data(), eps_, step.normed);
  at(Op::qkv).gemm(step.normed, w.qkv.view().columns(shard.qkv_rows.begin, shard.qkv_rows.size()), qkv, bias);
  at(Op::rope).rope(qkv, layout, step.batch, step.slice.begin, {cos_, sin_}, norm, out);
  const auto mine =
      exchange_qkv(step, out);  // [T, (Hc + 2 Hkvc) head_dim] bf16: all tokens, this rank's heads
  at(Op::append).append(mine.cols_from(q_width, mine.cols - q_width), heads_, step.batch, cache_, layer);
  at(Op::attention)
      .attention(mine.cols_from(0, q_width), heads_, step.batch, cache_, layer, scale, window, attended);
  const auto input = exchange_attended(step, attended);  // [Ts, heads / tensor * head_dim] bf16
  row_parallel(Op::o, input, w.o.view().k_range(shard.o_columns.begin, shard.o_columns.end), shard.o_bounds,
               w.o_bias, step);
}

void ForwardPass::mlp_block(int layer, const Step& step) {
  const LayerWeights& w = weights_.layer(layer);
  const parallel::Range& part = step.shard.mlp_columns;
  const auto activated =
      shaped(buffers_.activated, step.rows(), part.size());  // [Ts, intermediate / tensor] bf16
  const float* bias = w.gate_up_bias.data() == nullptr ? nullptr : w.gate_up_bias.data() + 2 * part.begin;

  at(Op::norm).rms_norm(step.residual, w.mlp_norm.data(), eps_, step.normed);
  at(Op::gate_up)
      .gemm_silu_mul(step.normed,
                     w.gate_up.view().columns(2 * part.begin, kernels::gate_up_rows(part.size())), activated,
                     bias);
  row_parallel(Op::down, activated, w.down.view().k_range(part.begin, part.end), step.shard.mlp_bounds,
               w.down_bias, step);
}

// From every rank's tokens, all heads of the group, to all tokens, this rank's heads. Both sides lie in the
// order of the exchange already: the rotation has written owner by owner, and slices arrive in token order.
kernels::MatrixView<const bf16> ForwardPass::exchange_qkv(const Step& step,
                                                          kernels::MatrixView<const bf16> out) {
  const Shard& shard = step.shard;
  if (shard.sequence == 1) return out;
  const auto in = shaped(buffers_.qkv_in, step.tokens(), out.cols);
  const std::int64_t row_bytes = out.cols * static_cast<std::int64_t>(sizeof(bf16));
  send_bytes_.assign(static_cast<std::size_t>(shard.sequence), step.rows() * row_bytes);
  receive_bytes_.clear();
  for (int r = 0; r < shard.sequence; ++r)
    receive_bytes_.push_back(slice_of(step.tokens(), shard.sequence, r).size() * row_bytes);
  timer_.at(Op::exchange);
  shard.sequence_group->all_to_all(Traffic::qkv_exchange, out.data, send_bytes_, in.data, receive_bytes_);
  return in;
}

// And back: this rank's tokens, the heads of all its group, side by side.
kernels::MatrixView<const bf16> ForwardPass::exchange_attended(const Step& step,
                                                               kernels::MatrixView<const bf16> attended) {
  const Shard& shard = step.shard;
  if (shard.sequence == 1) return attended;
  const std::int64_t row_bytes = attended.cols * static_cast<std::int64_t>(sizeof(bf16));
  const auto returned = shaped(buffers_.returned, shard.sequence * step.rows(), attended.cols);
  send_bytes_.clear();
  for (int r = 0; r < shard.sequence; ++r)
    send_bytes_.push_back(slice_of(step.tokens(), shard.sequence, r).size() * row_bytes);
  receive_bytes_.assign(static_cast<std::size_t>(shard.sequence), step.rows() * row_bytes);
  timer_.at(Op::exchange);
  shard.sequence_group->all_to_all(Traffic::attention_exchange, attended.data, send_bytes_, returned.data,
                                   receive_bytes_);
  const auto input = shaped(buffers_.o_input, step.rows(), shard.sequence * attended.cols);
  for (int r = 0; r < shard.sequence; ++r)
    backend_.copy(returned.rows_from(r * step.rows(), step.rows()),
                  input.cols_from(r * attended.cols, attended.cols));
  return input;
}

// residual += x w^T + bias, the sum over all reduction shards in one tree, whoever holds them.
void ForwardPass::row_parallel(Op op, kernels::MatrixView<const bf16> x, const kernels::PackedView& w,
                               std::span<const std::int64_t> bounds, const Vector& bias, const Step& step) {
  if (step.shard.tensor == 1) {
    at(op).gemm_reduced(x, w, bounds, step.residual);
  } else {
    at(op).gemm_partial(x, w, bounds, rows_of(buffers_.partial, step.rows()));
    add_over_ranks(Traffic::reduction, step);
  }
  if (bias.data() != nullptr) at(op).add(repeated(bias, step.rows()), step.residual);
}

// residual += the tree over the tensor group's `partial`s. Every rank adds its share of the elements and
// sends the sums to the others: a reduce-scatter and an all-gather whose order of addition is ours.
void ForwardPass::add_over_ranks(Traffic kind, const Step& step) {
  const Shard& shard = step.shard;
  const std::int64_t unit = std::gcd(step.residual.cols, std::int64_t{64});  // elements that stay together
  const std::int64_t units = step.rows() * step.residual.cols / unit;
  const parallel::Range own = slice_of(units, shard.tensor, shard.t);
  const std::int64_t unit_bytes = unit * static_cast<std::int64_t>(sizeof(float));
  send_bytes_.clear();
  for (int r = 0; r < shard.tensor; ++r)
    send_bytes_.push_back(slice_of(units, shard.tensor, r).size() * unit_bytes);
  receive_bytes_.assign(static_cast<std::size_t>(shard.tensor), own.size() * unit_bytes);

  timer_.at(Op::exchange);
  shard.tensor_group->all_to_all(kind, buffers_.partial.data(), send_bytes_, buffers_.parts.data(),
                                 receive_bytes_);
  std::array<kernels::MatrixView<const float>, kReductionShards> parts;  // [own units, unit] of each rank
  for (int r = 0; r < shard.tensor; ++r)
    parts[static_cast<std::size_t>(r)] = {buffers_.parts.data() + r * own.size() * unit, own.size(), unit};
  const kernels::MatrixView<float> sums{step.residual.data + own.begin * unit, own.size(), unit};
  at(Op::reduce).add_tree(std::span(parts).first(static_cast<std::size_t>(shard.tensor)), sums);
  timer_.at(Op::exchange);
  shard.tensor_group->all_gather(kind, step.residual.data, send_bytes_);
}

// Logits over this rank's chunk of the vocabulary, for all sampled rows: the same in both layouts.
kernels::MatrixView<float> ForwardPass::head(const StepBatch& batch, const Step& step) {
  const auto samples = static_cast<std::int64_t>(batch.sampled_rows.size());
  const auto logits = rows_of(buffers_.logits, samples);  // [S, chunk of vocab] fp32
  if (samples == 0) return logits;
  const auto sampled = rows_of(buffers_.sampled, samples);        // [S, hidden] fp32
  const auto normed = rows_of(buffers_.sampled_normed, samples);  // [S, hidden] bf16
  gather_sampled(batch, step, sampled);
  at(Op::norm).rms_norm(sampled, weights_.final_norm().data(), eps_, normed);
  if (vocabulary_.size() > 0)
    at(Op::head).gemm(normed, weights_.head().view().columns(vocabulary_.begin, vocabulary_.size()), logits);
  return logits;
}

// The residuals of the rows that sample, from whichever slice they are in, in the order of the batch.
void ForwardPass::gather_sampled(const StepBatch& batch, const Step& step,
                                 kernels::MatrixView<float> sampled) {
  const Shard& shard = step.shard;
  const std::int64_t row_bytes = sampled.cols * static_cast<std::int64_t>(sizeof(float));
  const auto row_at = [&](std::int64_t token) {  // sampled rows are ascending
    return std::lower_bound(batch.sampled_rows.begin(), batch.sampled_rows.end(), token) -
           batch.sampled_rows.begin();
  };
  const std::int64_t first = row_at(step.slice.begin), last = row_at(step.slice.end);
  local_rows_.clear();
  for (std::int64_t i = first; i < last; ++i)
    local_rows_.push_back(batch.sampled_rows[static_cast<std::size_t>(i)] -
                          static_cast<std::int32_t>(step.slice.begin));
  backend_.copy_to_device(buffers_.sampled_rows.data(), local_rows_.data(),
                          local_rows_.size() * sizeof(std::int32_t));
  at(Op::head).gather_rows(step.residual, buffers_.sampled_rows.data(),
                           sampled.rows_from(first, last - first));
  if (shard.sequence == 1) return;
  send_bytes_.clear();
  for (int r = 0; r < shard.sequence; ++r) {
    const parallel::Range slice = slice_of(step.tokens(), shard.sequence, r);
    send_bytes_.push_back((row_at(slice.end) - row_at(slice.begin)) * row_bytes);
  }
  timer_.at(Op::exchange);
  shard.sequence_group->all_gather(Traffic::sampled_rows, sampled.data, send_bytes_);
}

}  // namespace nightshift::model
