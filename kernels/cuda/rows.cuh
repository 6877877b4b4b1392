// SPDX-License-Identifier: Apache-2.0
// Row-wise kernels: bound by memory, so every thread moves neighbouring elements and each row is read once
// (twice by norms, the second time from cache).
#pragma once

#include "core/types.h"
#include "kernels/cuda/exp.cuh"
#include "kernels/cuda/lane.cuh"
#include "kernels/kernels.h"

namespace nightshift::kernels::cuda {

inline constexpr int kRowThreads = 256;   // of a block that works on one row
inline constexpr int kFlatThreads = 256;  // of a block that works on elements

// Threads of an element-wise kernel: x runs over columns, y over rows.
struct Element {
  std::int64_t row, col;
};
NS_DEVICE Element own_element(int per_thread = 1) {
  return {static_cast<std::int64_t>(blockIdx.y),
          (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * per_thread};
}

// The sum over the block's threads, in an order that depends on kRowThreads alone; the same bits in every
// thread. shared: [kRowThreads / 32]
NS_DEVICE float block_sum(float value, float* shared) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = sum(value, from_lane_xor(value, mask));
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  float total = shared[0];
  for (int w = 1; w < kRowThreads / kWarp; ++w) total = sum(total, shared[w]);
  __syncthreads();  // shared may be written again
  return total;
}

NS_KERNEL place_ids_kernel(const PendingId* pending, int count, const TokenId* sampled, TokenId* ids) {
  const std::int64_t i = own_element().col;
  if (i < count) ids[pending[i].row] = sampled[pending[i].source];
}

struct NormArguments {
  const float* weight;
  float eps;
  MatrixView<bf16> out;
};

// x * (1 / sqrt(mean(x^2) + eps)) * weight, of a row whose squares the block's threads have summed up: thread
// t those of columns t, t + kRowThreads, ..., which it alone reads here.
NS_DEVICE void norm_row(const float* from, std::int64_t cols, float squares, const NormArguments& norm,
                        float* shared) {
  std::uint16_t* to = &norm.out.data[0].bits + blockIdx.x * norm.out.stride;
  const float mean = quotient(block_sum(squares, shared), static_cast<float>(cols));
  const float scale = quotient(1.0F, square_root(sum(mean, norm.eps)));
  for (std::int64_t c = threadIdx.x; c < cols; c += kRowThreads)
    to[c] = static_cast<std::uint16_t>(bf16_bits(product(product(from[c], scale), norm.weight[c])));
}

// One row a block.
NS_KERNEL rms_norm_kernel(MatrixView<const float> x, NormArguments norm) {
  NS_DYNAMIC_SHARED(shared);
  const float* from = x.data + blockIdx.x * x.stride;
  float squares = 0.0F;
  for (std::int64_t c = threadIdx.x; c < x.cols; c += kRowThreads) squares = fused(from[c], from[c], squares);
  norm_row(from, x.cols, squares, norm, reinterpret_cast<float*>(shared));
}

NS_DEVICE float silu_times(float gate, float up) {
  return product(quotient(gate, sum(1.0F, fixed_exp(-gate))), up);
}

NS_KERNEL silu_mul_kernel(MatrixView<const float> gate, MatrixView<const float> up, MatrixView<bf16> y) {
  const Element e = own_element();
  if (e.col >= y.cols) return;
  const float value = silu_times(gate.data[e.row * gate.stride + e.col], up.data[e.row * up.stride + e.col]);
  y.data[e.row * y.stride + e.col].bits = static_cast<std::uint16_t>(bf16_bits(value));
}

// Out of the interleaved product [M, 2 I']: 32 gates, then the 32 ups of the same indices (gate_up_row). bias
// [2 I'] in the same order, or null.
NS_KERNEL silu_mul_interleaved_kernel(MatrixView<const float> gate_up, const float* bias,
                                      MatrixView<bf16> y) {
  const Element e = own_element();
  if (e.col >= y.cols) return;
  const std::int64_t at = e.col / 32 * 64 + e.col % 32;
  const float* row = gate_up.data + e.row * gate_up.stride;
  float gate = row[at], up = row[at + 32];
  if (bias != nullptr) {
    gate = sum(gate, bias[at]);
    up = sum(up, bias[at + 32]);
  }
  y.data[e.row * y.stride + e.col].bits = static_cast<std::uint16_t>(bf16_bits(silu_times(gate, up)));
}

// y += x; x.stride 0: one row onto every row
NS_KERNEL add_kernel(MatrixView<const float> x, MatrixView<float> y) {
  const Element e = own_element();
  if (e.col >= y.cols) return;
  float* to = y.data + e.row * y.stride + e.col;
  *to = sum(*to, x.data[e.row * x.stride + e.col]);
}

NS_KERNEL fill_kernel(MatrixView<float> y, float value) {
  const Element e = own_element();
  if (e.col < y.cols) y.data[e.row * y.stride + e.col] = value;
}

NS_KERNEL to_bf16_kernel(MatrixView<const float> x, MatrixView<bf16> y) {
  const Element e = own_element();
  if (e.col >= y.cols) return;
  y.data[e.row * y.stride + e.col].bits =
      static_cast<std::uint16_t>(bf16_bits(x.data[e.row * x.stride + e.col]));
}

NS_KERNEL copy_kernel(MatrixView<const bf16> x, MatrixView<bf16> y) {
  const Element e = own_element();
  if (e.col >= y.cols) return;
  y.data[e.row * y.stride + e.col].bits = x.data[e.row * x.stride + e.col].bits;
}

NS_KERNEL gather_rows_kernel(MatrixView<const float> x, const std::int32_t* rows, MatrixView<float> y) {
  const Element e = own_element();
  if (e.col < y.cols) y.data[e.row * y.stride + e.col] = x.data[rows[e.row] * x.stride + e.col];
}

// Rows of -0.0 for ids of other shards: the only x for which y + x has the bits of y for every y.
NS_KERNEL embed_kernel(MatrixView<const bf16> table, const TokenId* ids, MatrixView<float> y,
                       TokenId first_id, float scale) {
  const Element e = own_element();
  if (e.col >= y.cols) return;
  const std::int64_t id = static_cast<std::int64_t>(ids[e.row]) - first_id;
  float value = -0.0F;
  if (id >= 0 && id < table.rows)
    value = product(first_of(table.data[id * table.stride + e.col].bits), scale);
  y.data[e.row * y.stride + e.col] = value;
}

inline constexpr int kMostParts = 64;
struct Parts {
  const float* data[kMostParts];
  std::int64_t stride[kMostParts];  // elements from row to row
  int count;
};

// The parts' tree: sums wait at their levels and are added like the carries of a binary counter (tree_sum).
// Null parts, shards without columns, count as zeros.
NS_DEVICE float tree_at(const Parts& parts, std::int64_t row, std::int64_t col) {
  constexpr int kLevels =
      7;                // of kMostParts; all loops over them are unrolled, so that sums stay in registers
  float sums[kLevels];  // sums[l]: of 2^l parts, waiting for their neighbours
  for (int s = 0; s < parts.count; ++s) {
    float carry = parts.data[s] == nullptr ? 0.0F : parts.data[s][row * parts.stride[s] + col];
    bool placed = false;
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      const bool waits = ((s >> level) & 1) != 0;
      if (!placed && waits) carry = sum(sums[level], carry);
      if (!placed && !waits) sums[level] = carry;
      placed = placed || !waits;
    }
  }
  float total = 0.0F;
  bool any = false;
#pragma unroll
  for (int level = 0; level < kLevels; ++level) {
    if (((parts.count >> level) & 1) == 0) continue;
    total = any ? sum(sums[level], total) : sums[level];
    any = true;
  }
  return total;
}

NS_KERNEL add_tree_kernel(Parts parts, MatrixView<float> y, bool assign) {
  const Element e = own_element();
  if (e.col >= y.cols) return;
  const float total = tree_at(parts, e.row, e.col);
  float* to = y.data + e.row * y.stride + e.col;
  *to = assign ? total : sum(*to, total);
}

// y += the parts' tree, and the norm of the new y while its row is in cache. One row a block.
NS_KERNEL add_tree_norm_kernel(Parts parts, MatrixView<float> y, NormArguments norm) {
  NS_DYNAMIC_SHARED(shared);
  float* row = y.data + blockIdx.x * y.stride;
  float squares = 0.0F;
  for (std::int64_t c = threadIdx.x; c < y.cols; c += kRowThreads) {
    const float value = sum(row[c], tree_at(parts, blockIdx.x, c));
    row[c] = value;
    squares = fused(value, value, squares);
  }
  norm_row(row, y.cols, squares, norm, reinterpret_cast<float*>(shared));
}

}  // namespace nightshift::kernels::cuda
