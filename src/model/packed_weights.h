// SPDX-License-Identifier: Apache-2.0
// The weights in the layout that the kernels read: one copy, filled row range by row range while a checkpoint
// is read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "model/files/model_files.h"

namespace nightshift::model {

using Vector = kernels::Matrix<float>;  // [1, n]; no data when the model has none

struct LayerWeights {
  Vector attention_norm;      // [hidden]
  kernels::PackedMatrix qkv;  // [(heads + 2 kv_heads) head_dim, hidden], rows Q, K, V
  Vector qkv_bias;            // [(heads + 2 kv_heads) head_dim]
  Vector q_norm, k_norm;      // [head_dim]
  kernels::PackedMatrix o;    // [hidden, heads head_dim]
  Vector o_bias;              // [hidden]
  Vector mlp_norm;            // [hidden]
  kernels::PackedMatrix
      gate_up;  // [gate_up_rows(intermediate), hidden], interleaved; models without MLP biases
  kernels::PackedMatrix gate,
      up;                     // [intermediate, hidden]; models with MLP biases, which the fused product lacks
  Vector gate_bias, up_bias;  // [intermediate]
  kernels::PackedMatrix down;  // [hidden, intermediate]
  Vector down_bias;            // [hidden]
};

class PackedWeights {
 public:
  PackedWeights(const ModelConfig& config, kernels::Backend& backend);

  // Stores rows first_row .. of one weight of one layer, given in the file's element type as [rows][columns].
  // Each row once, in any order. Values become bf16 (rounded to nearest even) in matrices, fp32 in vectors.
  void store(Weight weight, int layer, DType dtype, std::int64_t first_row, std::int64_t rows,
             std::int64_t columns, const void* data);

  const LayerWeights& layer(int i) const { return layers_[static_cast<std::size_t>(i)]; }
  const kernels::PackedMatrix& head() const { return head_; }  // [vocab, hidden]; the embedding too when tied
  const kernels::Matrix<bf16>& embedding() const { return embedding_; }  // [vocab, hidden]; empty when tied
  const Vector& final_norm() const { return final_norm_; }               // [hidden]
  std::int64_t bytes() const { return bytes_; }

 private:
  kernels::PackedMatrix make_matrix(std::int64_t n, std::int64_t k);
  Vector make_vector(std::int64_t n, const char* label);
  void make_layer(LayerWeights& layer);
  Vector& vector_of(Weight weight, int layer);
  std::int64_t first_row_of(Weight weight) const;
  void store_vector(Weight weight, int layer, std::int64_t first, std::span<const float> values);
  void store_rows(Weight weight, int layer, std::int64_t first_row, kernels::MatrixView<const bf16> rows);
  void store_gate_up(LayerWeights& layer, bool up, std::int64_t first_row,
                     kernels::MatrixView<const bf16> rows);

  const ModelConfig& config_;
  kernels::Backend& backend_;
  std::vector<LayerWeights> layers_;
  kernels::PackedMatrix head_;
  kernels::Matrix<bf16> embedding_;
  Vector final_norm_;
  std::vector<bf16> converted_;  // scratch of store()
  std::vector<float> floats_;
  std::int64_t bytes_ = 0;
};

// Elements as the checkpoint stores them -> what computes. f16 subnormals and infinities are kept.
void convert(DType from, const void* data, std::span<bf16> out);
void convert(DType from, const void* data, std::span<float> out);

}  // namespace nightshift::model
