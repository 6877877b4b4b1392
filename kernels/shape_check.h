// SPDX-License-Identifier: Apache-2.0
// Shape checks at the door: an operation names itself, the argument, and what it was given against what it
// needs.
#pragma once

#include <span>

#include "kernels/kernels.h"

namespace nightshift::kernels {

template <class T>
void check_shape(const char* operation, const char* argument, const MatrixView<T>& m, std::int64_t rows,
                 std::int64_t cols) {
  NS_CHECK(m.rows == rows && m.cols == cols && m.stride >= cols && (m.data != nullptr || rows * cols == 0),
           "kernels::{}: {} is {} x {} (stride {}, data {}), expected {} x {}", operation, argument, m.rows,
           m.cols, m.stride, m.data == nullptr ? "null" : "set", rows, cols);
}

// Shard bounds: ascending from 0 to `extent`, at most 64 shards; `even`: each on a pair of k.
void check_bounds(const char* operation, std::span<const std::int64_t> bounds, std::int64_t extent,
                  bool even);

// What all backends ask of attention and its neighbours. rows, end_position, highest_block: of the batch.
void check_rope(const MatrixView<const float>& qkv, const QkvLayout& layout, std::int64_t rows,
                int end_position, std::int64_t first_row, const Rope& rope, const MatrixView<bf16>& out);
void check_heads(const char* operation, const AttentionShape& shape, BlockId highest_block,
                 const KvCache& cache, int layer);
void check_attention(const MatrixView<const bf16>& q, const AttentionShape& shape, std::int64_t rows,
                     BlockId highest_block, const KvCache& cache, int layer, float scale, int window,
                     const MatrixView<bf16>& out);

}  // namespace nightshift::kernels
