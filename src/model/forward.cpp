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

// Whether the shift layout is one: its tensor degree divides the shards of a reduction.
bool shifts(const parallel::DeviceMesh* mesh) {
  return kReductionShards % (mesh == nullptr ? 1 : mesh->degrees().ranks()) == 0;
}

}  // namespace

ForwardPass::ForwardPass(const ModelConfig& config, const PackedWeights& weights, const StepLimits& limits,
                         const parallel::DeviceMesh* mesh, kernels::Backend& backend, Transport transport)
    : config_(config),
      weights_(weights),
      limits_(limits),
      backend_(backend),
      groups_(mesh, backend, transport, shifts(mesh)),
      shards_{make_shard(config.shape, mesh, groups_, Layout::base),
              make_shard(config.shape, mesh, groups_, shifts(mesh) ? Layout::shift : Layout::base)},
      chunk_(qkv_chunk(config.shape, mesh == nullptr ? 1 : mesh->degrees().ranks())),
      vocabulary_(own_vocabulary(config.shape, mesh)),
      heads_{chunk_.heads, chunk_.kv_heads, config.shape.head_dim},
      cache_(backend.make_kv_cache(
          {.layers = config.shape.layers,
           .kv_heads = chunk_.kv_heads,
           .head_dim = config.shape.head_dim,
           .blocks = limits.kv_blocks + (backend.device() == kernels::Device::cpu ? 0 : 1)})),
      buffers_(config, limits, shards_[0], shards_[1], backend),
      eps_(static_cast<float>(config.rms_norm_eps)),
      windows_(config.windows),
      padding_block_{static_cast<BlockId>(limits.kv_blocks)} {
  std::sort(windows_.begin(), windows_.end());
  windows_.erase(std::unique(windows_.begin(), windows_.end()), windows_.end());
  const auto degrees = mesh == nullptr ? parallel::Degrees{} : mesh->degrees();
  backend.reserve_scratch(static_cast<std::size_t>(gpu_scratch_bytes(config.shape, limits, degrees)));
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

kernels::MatrixView<float> ForwardPass::run(StepBatch& batch, Layout layout, const TokenId* before) {
  const Shard& shard = this->shard(layout);
  const auto samples = static_cast<std::int64_t>(batch.sampled_rows.size());
  const bool repeats =
      backend_.device() != kernels::Device::cpu && batch.decodes_only() && groups_.capturable();
  if (repeats) pad_decodes(batch, limits_, padding_block_);
  const auto attention = at(Op::other).prepare(batch.slices, {.shape = heads_, .windows = windows_});
  const parallel::Range slice = slice_of(attention->rows(), shard.sequence, shard.s);
  const Step step{shard, *attention, slice, rows_of(buffers_.residual, slice.size()),
                  rows_of(buffers_.normed, slice.size())};
  const auto logits = rows_of(buffers_.logits, static_cast<std::int64_t>(batch.sampled_rows.size()));
  upload(batch, step, before);
  const std::uint64_t replay = repeats ? attention->replay_key() : 0;
  const std::uint64_t key = replay == 0 ? 0 : 2 * replay + static_cast<std::uint64_t>(layout);
  groups_.run_repeatedly(key, backend_, [&] {
    embed(step);
    layers(step);
    head(batch, step, logits);
  });
  timer_.stop();
  return logits.rows_from(0, samples);
}

// What the step reads of the host's knowledge, before any of its kernels.
void ForwardPass::upload(const StepBatch& batch, const Step& step, const TokenId* before) {
  const parallel::Range& slice = step.slice;
  const auto to_device = [&](auto& matrix, const auto* from, std::size_t count) {
    backend_.copy_to_device(matrix.data(), from, count * sizeof *from);
  };
  to_device(buffers_.ids, batch.ids.data() + slice.begin, static_cast<std::size_t>(slice.size()));
  local_rows_.clear();
  for (const std::int32_t row : batch.sampled_rows)
    if (row >= slice.begin && row < slice.end)
      local_rows_.push_back(row - static_cast<std::int32_t>(slice.begin));
  to_device(buffers_.sampled_rows, local_rows_.data(), local_rows_.size());
  local_pending_.clear();
  for (const kernels::PendingId& id : batch.pending)
    if (id.row >= slice.begin && id.row < slice.end)
      local_pending_.push_back({id.row - static_cast<std::int32_t>(slice.begin), id.source});
  if (local_pending_.empty()) return;
  to_device(buffers_.pending, local_pending_.data(), local_pending_.size());
  backend_.place_ids(buffers_.pending.data(), static_cast<int>(local_pending_.size()), before,
                     buffers_.ids.data());
}

void ForwardPass::layers(const Step& step) {
  at(Op::norm).rms_norm(step.residual, weights_.layer(0).attention_norm.data(), eps_, step.normed);
  for (int layer = 0; layer < config_.shape.layers; ++layer) {
    if (on_layer_) on_layer_();
    attention_block(layer, step);
    mlp_block(layer, step);
  }
}

void ForwardPass::embed(const Step& step) {
  const parallel::Range& part = step.shard.vocabulary;
  const bool whole = step.shard.tensor == 1;
  const auto to = whole ? step.residual : rows_of(buffers_.partial, step.rows());
  const auto first = static_cast<TokenId>(part.begin);
  if (config_.shape.tied_embeddings)
    at(Op::embed).embed(weights_.head(part), buffers_.ids.data(), to, first);
  else
    at(Op::embed).embed(weights_.embedding(part), buffers_.ids.data(), to, first);
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

  at(Op::qkv).gemm(step.normed, weights_.qkv(layer, shard.qkv_rows), qkv, bias);
  at(Op::rope).rope(qkv, layout, step.batch, step.slice.begin, {cos_, sin_}, norm, out);
  const auto mine =
      exchange_qkv(step, out);  // [T, (Hc + 2 Hkvc) head_dim] bf16: all tokens, this rank's heads
  at(Op::append).append(mine.cols_from(q_width, mine.cols - q_width), heads_, step.batch, cache_, layer);
  at(Op::attention)
      .attention(mine.cols_from(0, q_width), heads_, step.batch, cache_, layer, scale, window, attended);
  const auto input = exchange_attended(step, attended);  // [Ts, heads / tensor * head_dim] bf16
  row_parallel(Op::o, input, weights_.o(layer, shard.o_columns), shard.o_bounds, w.o_bias, &w.mlp_norm, step);
}

void ForwardPass::mlp_block(int layer, const Step& step) {
  const LayerWeights& w = weights_.layer(layer);
  const parallel::Range& part = step.shard.mlp_columns;
  const auto activated =
      shaped(buffers_.activated, step.rows(), part.size());  // [Ts, intermediate / tensor] bf16
  const bool last = layer + 1 == config_.shape.layers;
  const Vector* next_norm = last ? nullptr : &weights_.layer(layer + 1).attention_norm;
  const float* bias = w.gate_up_bias.data() == nullptr ? nullptr : w.gate_up_bias.data() + 2 * part.begin;

  at(Op::gate_up).gemm_silu_mul(step.normed, weights_.gate_up(layer, part), activated, bias);
  row_parallel(Op::down, activated, weights_.down(layer, part), step.shard.mlp_bounds, w.down_bias, next_norm,
               step);
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

// residual += x w^T + bias, the sum over all reduction shards in one tree, whoever holds them; then the norm
// that the next block reads, where there is one.
void ForwardPass::row_parallel(Op op, kernels::MatrixView<const bf16> x, const kernels::PackedView& w,
                               std::span<const std::int64_t> bounds, const Vector& bias,
                               const Vector* next_norm, const Step& step) {
  const bool at_once = step.shard.tensor == 1 && bias.data() == nullptr && next_norm != nullptr;
  if (at_once) {
    const kernels::RmsNorm norm{next_norm->data(), eps_, step.normed};
    at(op).gemm_reduced(x, w, bounds, step.residual, &norm);
    return;
  }
  if (step.shard.tensor == 1) {
    at(op).gemm_reduced(x, w, bounds, step.residual);
  } else {
    at(op).gemm_partial(x, w, bounds, rows_of(buffers_.partial, step.rows()));
    add_over_ranks(Traffic::reduction, step);
  }
  if (bias.data() != nullptr) at(op).add(repeated(bias, step.rows()), step.residual);
  if (next_norm != nullptr) at(Op::norm).rms_norm(step.residual, next_norm->data(), eps_, step.normed);
}

// residual += the tree over the tensor group's `partial`s. Every rank adds its share of the elements and
// sends the sums to the others: a reduce-scatter and an all-gather whose order of addition is ours. Numerics
// that need no such order leave it to the library.
void ForwardPass::add_over_ranks(Traffic kind, const Step& step) {
  const Shard& shard = step.shard;
  if (backend_.kernel_set() == "cuda_fast") {
    const auto partial = rows_of(buffers_.partial, step.rows());
    timer_.at(Op::exchange);
    shard.tensor_group->all_reduce(kind, partial.data, partial.rows * partial.cols);
    return at(Op::reduce).add(partial, step.residual);
  }
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

// Logits over this rank's chunk of the vocabulary, for all sampled rows: the same in both layouts. logits [S,
// chunk of vocab] fp32
void ForwardPass::head(const StepBatch& batch, const Step& step, kernels::MatrixView<float> logits) {
  if (logits.rows == 0) return;
  const auto sampled = rows_of(buffers_.sampled, logits.rows);        // [S, hidden] fp32
  const auto normed = rows_of(buffers_.sampled_normed, logits.rows);  // [S, hidden] bf16
  gather_sampled(batch, step, sampled);
  at(Op::norm).rms_norm(sampled, weights_.final_norm().data(), eps_, normed);
  if (vocabulary_.size() > 0) at(Op::head).gemm(normed, weights_.head(vocabulary_), logits);
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
