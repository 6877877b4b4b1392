// SPDX-License-Identifier: Apache-2.0
#include "model/packed_weights.h"

#include <algorithm>

#include "core/check.h"
#include "core/reduction.h"
#include "kernels/team.h"

namespace nightshift::model {

namespace {

// What of rows first .. first + count - 1 lies in `held`.
parallel::Range within(const parallel::Range& held, std::int64_t first, std::int64_t count) {
  const std::int64_t begin = std::max(first, held.begin);
  return {begin, std::max(begin, std::min(first + count, held.end))};
}

parallel::Range relative(const parallel::Range& part, const parallel::Range& held) {
  if (part.size() == 0) return {};
  NS_CHECK(part.begin >= held.begin && part.end <= held.end, "{}..{} of a matrix that holds {}..{}",
           part.begin, part.end, held.begin, held.end);
  return {part.begin - held.begin, part.end - held.begin};
}

kernels::PackedView rows_of(const kernels::PackedMatrix& matrix, const parallel::Range& part) {
  return matrix.view().columns(part.begin, part.size());
}

}  // namespace

PackedWeights::PackedWeights(const ModelConfig& config, const parallel::DeviceMesh* mesh,
                             const WeightParts& held, kernels::Backend& backend)
    : config_(config),
      chunks_(mesh == nullptr ? 1 : mesh->degrees().ranks()),
      held_(held),
      backend_(backend),
      memory_(backend),
      layers_(static_cast<std::size_t>(config.shape.layers)) {
  const ModelShape& shape = config.shape;
  if (shape.hidden % 2 != 0 || shape.intermediate % 2 != 0)
    throw BadInput(
        fmt::format("hidden_size {} and intermediate_size {} must be even", shape.hidden, shape.intermediate),
        "choose another model");
  lay_out();  // measures
  memory_.reserve(mesh);
  lay_out();
}

void PackedWeights::lay_out() {
  const ModelShape& shape = config_.shape;
  for (LayerWeights& layer : layers_) make_layer(layer);
  head_ = make_matrix(held_.vocabulary.size(), shape.hidden);
  if (!shape.tied_embeddings)
    embedding_ = make_plain<bf16>(held_.vocabulary.size(), shape.hidden, "model::embedding");
  final_norm_ = make_vector(shape.hidden, "model::final_norm");
}

kernels::PackedMatrix PackedWeights::make_matrix(std::int64_t n, std::int64_t k) {
  if (n == 0 || k == 0) return {kernels::Buffer{}, nullptr, n, k};
  const std::span<std::byte> memory = memory_.take(backend_.packed_bytes(n, k));
  return memory.empty() ? kernels::PackedMatrix() : backend_.make_packed(n, k, memory);
}

template <class T>
kernels::Matrix<T> PackedWeights::make_plain(std::int64_t rows, std::int64_t columns, const char* label) {
  const std::span<std::byte> memory = memory_.take(static_cast<std::size_t>(rows * columns) * sizeof(T));
  if (memory.empty()) return {};
  return {kernels::Buffer(memory.data(), memory.size(), backend_.device(), label, [](void*, std::size_t) {}),
          rows, columns};
}

void PackedWeights::make_layer(LayerWeights& layer) {
  const ModelShape& s = config_.shape;
  const std::int64_t qkv = chunks_ * qkv_chunk(s, chunks_).rows;
  const std::int64_t gate_up = kernels::gate_up_rows(s.intermediate);
  layer.attention_norm = make_vector(s.hidden, "model::attention_norm");
  layer.qkv = make_matrix(held_.qkv_rows.size(), s.hidden);
  if (config_.qkv_bias) layer.qkv_bias = make_vector(qkv, "model::qkv_bias");
  if (config_.qk_norm) layer.q_norm = make_vector(s.head_dim, "model::q_norm");
  if (config_.qk_norm) layer.k_norm = make_vector(s.head_dim, "model::k_norm");
  layer.o = make_matrix(s.hidden, held_.o_columns.size());
  if (config_.o_bias) layer.o_bias = make_vector(s.hidden, "model::o_bias");
  layer.mlp_norm = make_vector(s.hidden, "model::mlp_norm");
  layer.gate_up = make_matrix(kernels::gate_up_rows(held_.mlp_columns.size()), s.hidden);
  layer.down = make_matrix(s.hidden, held_.mlp_columns.size());
  if (!config_.mlp_bias) return;
  layer.gate_up_bias = make_vector(gate_up, "model::gate_up_bias");
  layer.down_bias = make_vector(s.hidden, "model::down_bias");
}

void PackedWeights::store(Weight weight, int layer, DType dtype, std::int64_t first_row, std::int64_t rows,
                          std::int64_t columns, const void* data) {
  const auto count = static_cast<std::size_t>(rows * columns);
  if (expected_shape(weight, config_.shape).columns == 0) {
    floats_.resize(count);
    convert(dtype, data, floats_);
    return store_vector(weight, layer, first_row, floats_);
  }
  const bf16* values = static_cast<const bf16*>(data);
  if (dtype != DType::bf16) {
    converted_.resize(count);
    convert(dtype, data, converted_);
    values = converted_.data();
  }
  store_rows(weight, layer, first_row, {values, rows, columns});
}

bool PackedWeights::wants(Weight weight, std::int64_t first_row, std::int64_t rows) const {
  bool any = false;
  switch (weight) {
    case Weight::embedding:
    case Weight::head:
      return within(held_.vocabulary, first_row, rows).size() > 0;
    case Weight::gate:
    case Weight::up:
      return within(held_.mlp_columns, first_row, rows).size() > 0;
    case Weight::q:
    case Weight::k:
    case Weight::v:
      place_qkv_rows(config_.shape, chunks_, weight, first_row, rows,
                     [&](std::int64_t at, std::int64_t, std::int64_t count) {
                       any = any || within(held_.qkv_rows, at, count).size() > 0;
                     });
      return any;
    default:
      return true;
  }
}

Vector& PackedWeights::vector_of(Weight weight, int layer) {
  if (weight == Weight::final_norm) return final_norm_;
  LayerWeights& w = layers_[static_cast<std::size_t>(layer)];
  switch (weight) {
    case Weight::attention_norm:
      return w.attention_norm;
    case Weight::q_bias:
    case Weight::k_bias:
    case Weight::v_bias:
      return w.qkv_bias;
    case Weight::o_bias:
      return w.o_bias;
    case Weight::q_norm:
      return w.q_norm;
    case Weight::k_norm:
      return w.k_norm;
    case Weight::mlp_norm:
      return w.mlp_norm;
    case Weight::gate_bias:
    case Weight::up_bias:
      return w.gate_up_bias;
    case Weight::down_bias:
      return w.down_bias;
    default:
      break;
  }
  NS_CHECK(false, "weight {} is not a vector", static_cast<int>(weight));
}

void PackedWeights::store_vector(Weight weight, int layer, std::int64_t first,
                                 std::span<const float> values) {
  Vector& vector = vector_of(weight, layer);
  const auto count = static_cast<std::int64_t>(values.size());
  const auto put = [&](std::int64_t at, std::int64_t from, std::int64_t run) {
    NS_CHECK(at + run <= vector.cols(), "rows {}..{} of {}", at, at + run, vector.cols());
    backend_.copy_to_device(vector.data() + at, &values[static_cast<std::size_t>(from - first)],
                            static_cast<std::size_t>(run) * sizeof(float));
  };
  switch (weight) {
    case Weight::q_bias:
    case Weight::k_bias:
    case Weight::v_bias:
      return place_qkv_rows(config_.shape, chunks_, weight, first, count, put);
    case Weight::gate_bias:
    case Weight::up_bias:
      for (std::int64_t i = first; i < first + count; ++i)
        put(kernels::gate_up_row(i, weight == Weight::up_bias), i, 1);
      return;
    default:
      return put(first, first, count);
  }
}

void PackedWeights::store_rows(Weight weight, int layer, std::int64_t first_row,
                               kernels::MatrixView<const bf16> rows) {
  if (weight == Weight::embedding || weight == Weight::head) return store_vocabulary(weight, first_row, rows);
  LayerWeights& w = layers_[static_cast<std::size_t>(layer)];
  switch (weight) {
    case Weight::q:
    case Weight::k:
    case Weight::v:
      return place_qkv_rows(config_.shape, chunks_, weight, first_row, rows.rows,
                            [&](std::int64_t at, std::int64_t from, std::int64_t count) {
                              const parallel::Range part = within(held_.qkv_rows, at, count);
                              if (part.size() == 0) return;
                              backend_.pack_rows(
                                  w.qkv, part.begin - held_.qkv_rows.begin,
                                  rows.rows_from(from + part.begin - at - first_row, part.size()));
                            });
    case Weight::o:
      if (held_.o_columns.size() == 0) return;
      return backend_.pack_rows(w.o, first_row,
                                rows.cols_from(held_.o_columns.begin, held_.o_columns.size()));
    case Weight::down:
      if (held_.mlp_columns.size() == 0) return;
      return backend_.pack_rows(w.down, first_row,
                                rows.cols_from(held_.mlp_columns.begin, held_.mlp_columns.size()));
    case Weight::gate:
    case Weight::up:
      return store_gate_up(w, weight == Weight::up, first_row, rows);
    default:
      break;
  }
  NS_CHECK(false, "weight {} is not a matrix", static_cast<int>(weight));
}

void PackedWeights::store_gate_up(LayerWeights& layer, bool up, std::int64_t first_row,
                                  kernels::MatrixView<const bf16> rows) {
  // Runs of rows that stay together in the interleaved matrix; every run is another panel's half.
  const parallel::Range part = within(held_.mlp_columns, first_row, rows.rows);
  if (part.size() == 0) return;
  const std::int64_t first_run = part.begin / kMlpUnit, last_row = part.end;
  const std::int64_t runs = (last_row + kMlpUnit - 1) / kMlpUnit - first_run;
  const double nanoseconds = 0.5 * static_cast<double>(rows.rows) * static_cast<double>(rows.cols);
  kernels::for_each_tile("model::pack", backend_.threads(), runs, nanoseconds, [&](int, std::int64_t run) {
    const std::int64_t begin = std::max(part.begin, (first_run + run) * kMlpUnit);
    const std::int64_t end = std::min(last_row, (first_run + run + 1) * kMlpUnit);
    backend_.pack_rows(layer.gate_up, kernels::gate_up_row(begin - held_.mlp_columns.begin, up),
                       rows.rows_from(begin - first_row, end - begin));
  });
}

void PackedWeights::store_vocabulary(Weight weight, std::int64_t first_row,
                                     kernels::MatrixView<const bf16> rows) {
  const parallel::Range part = within(held_.vocabulary, first_row, rows.rows);
  if (part.size() == 0) return;
  const auto kept = rows.rows_from(part.begin - first_row, part.size());
  const std::int64_t at = part.begin - held_.vocabulary.begin;
  if (weight == Weight::head || config_.shape.tied_embeddings) return backend_.pack_rows(head_, at, kept);
  backend_.copy_to_device(embedding_.view().row(at), kept.data,
                          static_cast<std::size_t>(kept.rows * kept.cols) * sizeof(bf16));
}

kernels::PackedView PackedWeights::qkv(int layer, const parallel::Range& rows) const {
  return rows_of(this->layer(layer).qkv, relative(rows, held_.qkv_rows));
}
kernels::PackedView PackedWeights::o(int layer, const parallel::Range& columns) const {
  const parallel::Range part = relative(columns, held_.o_columns);
  return this->layer(layer).o.view().k_range(part.begin, part.end);
}
kernels::PackedView PackedWeights::gate_up(int layer, const parallel::Range& mlp_columns) const {
  const parallel::Range part = relative(mlp_columns, held_.mlp_columns);
  return this->layer(layer).gate_up.view().columns(2 * part.begin, kernels::gate_up_rows(part.size()));
}
kernels::PackedView PackedWeights::down(int layer, const parallel::Range& mlp_columns) const {
  const parallel::Range part = relative(mlp_columns, held_.mlp_columns);
  return this->layer(layer).down.view().k_range(part.begin, part.end);
}
kernels::PackedView PackedWeights::head(const parallel::Range& vocabulary) const {
  return rows_of(head_, relative(vocabulary, held_.vocabulary));
}
kernels::MatrixView<const bf16> PackedWeights::embedding(const parallel::Range& vocabulary) const {
  const parallel::Range part = relative(vocabulary, held_.vocabulary);
  return embedding_.view().rows_from(part.begin, part.size());
}

}  // namespace nightshift::model
