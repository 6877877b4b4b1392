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

}  // namespace nightshift::kernels
