// SPDX-License-Identifier: Apache-2.0
// The weights in the layout that the kernels read. On CPUs one copy per host, filled row range by row range
// while a checkpoint is read, by all ranks of the host together; on GPUs the part of this rank alone, its own
// in the base layout, within which that of the shift layout lies.
//
// QKV rows stand in owner order: for each of the replica's P chunks [Q heads | K heads | V heads], KV heads
// repeated where there are fewer than ranks, filled up with zero rows to whole panels. Every other matrix is
// in the order of the checkpoint. So the part of any tensor-parallel rank, in the base and in the shift
// layout, is one run of panels (column-parallel) or one K range (row-parallel): a view, never a copy.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "model/files/model_files.h"
#include "model/weight_memory.h"

namespace nightshift::model {

using Vector = kernels::Matrix<float>;  // [1, n]; no data when the model has none

struct LayerWeights {
  Vector attention_norm;          // [hidden]
  kernels::PackedMatrix qkv;      // [held qkv_rows, hidden], owner order
  Vector qkv_bias;                // [chunks * chunk_rows]
  Vector q_norm, k_norm;          // [head_dim]
  kernels::PackedMatrix o;        // [hidden, held o_columns]
  Vector o_bias;                  // [hidden]
  Vector mlp_norm;                // [hidden]
  kernels::PackedMatrix gate_up;  // [gate_up_rows(held mlp_columns), hidden], interleaved
  Vector gate_up_bias;            // [gate_up_rows(intermediate)]
  kernels::PackedMatrix down;     // [hidden, held mlp_columns]
  Vector down_bias;               // [hidden]
};

// Parts of the matrices: what a process holds, or what it reads in a layout.
struct WeightParts {
  parallel::Range qkv_rows;     // of [chunks * chunk_rows]
  parallel::Range o_columns;    // of heads head_dim
  parallel::Range mlp_columns;  // of intermediate
  parallel::Range vocabulary;   // rows of embedding and head
};

// Rows of the fused QKV matrix that one chunk of P owns.
struct QkvChunk {
  int heads = 0;  // query heads
  int kv_heads = 0;
  std::int64_t rows = 0;  // (heads + 2 kv_heads) head_dim, up to whole panels
};
QkvChunk qkv_chunk(const ModelShape& shape, int chunks);

class PackedWeights {
 public:
  // For a replica of mesh->degrees().ranks() chunks; null: one. Collective over the world of the mesh.
  PackedWeights(const ModelConfig& config, const parallel::DeviceMesh* mesh, const WeightParts& held,
                kernels::Backend& backend);

  // Stores rows first_row .. of one weight of one layer, given in the file's element type as [rows][columns].
  // Each row once, in any order, by any rank of the host. Values become bf16 (rounded to nearest even) in
  // matrices, fp32 in vectors.
  void store(Weight weight, int layer, DType dtype, std::int64_t first_row, std::int64_t rows,
             std::int64_t columns, const void* data);

  // Whether any of these rows of a weight is held here.
  bool wants(Weight weight, std::int64_t first_row, std::int64_t rows) const;

  const LayerWeights& layer(int i) const { return layers_[static_cast<std::size_t>(i)]; }
  const Vector& final_norm() const { return final_norm_; }  // [hidden]
  // Parts of matrices, within what is held, named by their place in the whole matrix.
  kernels::PackedView qkv(int layer, const parallel::Range& rows) const;
  kernels::PackedView o(int layer, const parallel::Range& columns) const;
  kernels::PackedView gate_up(int layer, const parallel::Range& mlp_columns) const;
  kernels::PackedView down(int layer, const parallel::Range& mlp_columns) const;
  kernels::PackedView head(const parallel::Range& vocabulary) const;  // the embedding too when tied
  kernels::MatrixView<const bf16> embedding(const parallel::Range& vocabulary) const;
  const WeightMemory& memory() const { return memory_; }

 private:
  void lay_out();
  kernels::PackedMatrix make_matrix(std::int64_t n, std::int64_t k);
  template <class T>
  kernels::Matrix<T> make_plain(std::int64_t rows, std::int64_t columns, const char* label);
  Vector make_vector(std::int64_t n, const char* label) { return make_plain<float>(1, n, label); }
  void make_layer(LayerWeights& layer);

  Vector& vector_of(Weight weight, int layer);
  void store_vector(Weight weight, int layer, std::int64_t first, std::span<const float> values);
  void store_rows(Weight weight, int layer, std::int64_t first_row, kernels::MatrixView<const bf16> rows);
  void store_gate_up(LayerWeights& layer, bool up, std::int64_t first_row,
                     kernels::MatrixView<const bf16> rows);
  void store_vocabulary(Weight weight, std::int64_t first_row, kernels::MatrixView<const bf16> rows);

  const ModelConfig& config_;
  const int chunks_;
  const WeightParts held_;
  kernels::Backend& backend_;
  WeightMemory memory_;
  std::vector<LayerWeights> layers_;
  kernels::PackedMatrix head_;
  kernels::Matrix<bf16> embedding_;
  Vector final_norm_;
  std::vector<bf16> converted_;  // scratch of store()
  std::vector<float> floats_;
};

// Where rows of q, k or v (matrix or bias) go: calls place(at, from, count) for every run of rows
// from .. from + count - 1 of the weight that stays together at row `at` of the fused matrix; a row that
// several chunks hold comes several times.
using PlaceRows = std::function<void(std::int64_t at, std::int64_t from, std::int64_t count)>;
void place_qkv_rows(const ModelShape& shape, int chunks, Weight weight, std::int64_t first_row,
                    std::int64_t rows, const PlaceRows& place);

// Elements as the checkpoint stores them -> what computes. f16 subnormals and infinities are kept.
void convert(DType from, const void* data, std::span<bf16> out);
void convert(DType from, const void* data, std::span<float> out);

}  // namespace nightshift::model
