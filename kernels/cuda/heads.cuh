// SPDX-License-Identifier: Apache-2.0
// From the fused QKV product to the KV cache: head norms and rotation, and the append.
#pragma once

#include "core/types.h"
#include "kernels/cuda/lane.cuh"
#include "kernels/kernels.h"

namespace nightshift::kernels::cuda {

struct RopeArguments {
  const float* qkv;  // [m, >= (groups - 1) group_stride + width]
  std::int64_t qkv_stride;
  std::int64_t group_stride;
  std::int64_t rows;  // m
  int heads, kv_heads, head_dim;
  const std::int32_t* positions;  // of the m rows
  const float* cos;               // [positions, rotary_dim / 2], null: no rotation
  const float* sin;
  std::int64_t table_stride;
  int rotary_dim;
  const float* q_norm;  // [head_dim] or null
  const float* k_norm;
  float eps;
  bf16* out;  // [groups * m, width], group by group
  std::int64_t out_stride;
};

// The sum over a warp's lanes, in one order, the same bits in every lane.
NS_DEVICE float warp_sum(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = sum(value, from_lane_xor(value, mask));
  return value;
}

// grid: (m, groups, heads + 2 KV heads), a warp each. Lane l holds elements l, l + 32, ... of the head in
// shared memory, where a rotation's partner may be another lane's.
NS_KERNEL rope_kernel(RopeArguments a) {
  NS_DYNAMIC_SHARED(shared);
  auto* x = reinterpret_cast<float*>(shared);  // [head_dim]
  const std::int64_t row = blockIdx.x, group = blockIdx.y;
  const int head = static_cast<int>(blockIdx.z), lane = static_cast<int>(threadIdx.x);
  const bool is_value = head >= a.heads + a.kv_heads;
  const float* from =
      a.qkv + row * a.qkv_stride + group * a.group_stride + static_cast<std::int64_t>(head) * a.head_dim;
  bf16* to = a.out + (group * a.rows + row) * a.out_stride + static_cast<std::int64_t>(head) * a.head_dim;
  const float* weight = is_value ? nullptr : head < a.heads ? a.q_norm : a.k_norm;

  float squares = 0.0F;
  for (int d = lane; d < a.head_dim; d += kWarp) squares = fused(from[d], from[d], squares);
  float scale = 1.0F;
  if (weight != nullptr) {
    const float mean = quotient(warp_sum(squares), static_cast<float>(a.head_dim));
    scale = quotient(1.0F, square_root(sum(mean, a.eps)));
  }
  for (int d = lane; d < a.head_dim; d += kWarp)
    x[d] = weight == nullptr ? from[d] : product(product(from[d], scale), weight[d]);
  __syncthreads();

  const int half = is_value || a.cos == nullptr ? 0 : a.rotary_dim / 2;
  const std::int64_t table = half == 0 ? 0 : a.positions[row] * a.table_stride;
  for (int d = lane; d < a.head_dim; d += kWarp) {
    float value = x[d];
    if (d < half) {
      value = difference(product(x[d], a.cos[table + d]), product(x[d + half], a.sin[table + d]));
    } else if (d < 2 * half) {
      value = sum(product(x[d], a.cos[table + d - half]), product(x[d - half], a.sin[table + d - half]));
    }
    to[d].bits = static_cast<std::uint16_t>(bf16_bits(value));
  }
}

struct AppendArguments {
  const bf16* kv;  // [rows, 2 kv_heads D]: K heads, V heads
  std::int64_t kv_stride;
  int kv_heads, head_dim;
  const std::int32_t* positions;  // [rows]
  const BlockId* blocks;          // [rows] the block of each row's position
  bf16* cache;                    // of the layer: [block][KV head][K [16, D], V [16, D]]
};

// grid: (rows, K and V heads); threads over dimensions.
NS_KERNEL append_kernel(AppendArguments a) {
  const std::int64_t row = blockIdx.x;
  const int part = static_cast<int>(blockIdx.y), kv_head = part % a.kv_heads;
  const std::int64_t elements = static_cast<std::int64_t>(kKvBlockTokens) * a.head_dim;
  const bf16* from = a.kv + row * a.kv_stride + static_cast<std::int64_t>(part) * a.head_dim;
  bf16* to = a.cache + (static_cast<std::int64_t>(a.blocks[row]) * a.kv_heads + kv_head) * 2 * elements +
             (part < a.kv_heads ? 0 : elements) + a.positions[row] % kKvBlockTokens * a.head_dim;
  for (int d = static_cast<int>(threadIdx.x); d < a.head_dim; d += static_cast<int>(blockDim.x))
    to[d].bits = from[d].bits;
}

}  // namespace nightshift::kernels::cuda
