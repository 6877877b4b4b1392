// SPDX-License-Identifier: Apache-2.0
// What an instruction set brings: functions for one tile of work on one thread. CpuBackend checks shapes,
// cuts work into tiles and runs them on threads; everything that decides bits is in here and in the row
// orders of kernels.h.
//
// The AVX-512 files include this header and nothing that could emit an inline function: code compiled with
// their flags must never become the copy that the linker keeps for the whole program. So: plain data, no
// member functions.
#pragma once

#include <cstdint>

#include "core/types.h"

namespace nightshift::kernels {

// --- layouts shared by all CPU kernel sets (see PackedView and KvCache in kernels.h) ---
inline constexpr int kPanel = 64;      // columns of y per panel
inline constexpr int kMaxShards = 64;  // of one reduction
inline constexpr int kMaxHeadDim = 512;
inline constexpr int kMaxBlockRows = 96;  // rows of x in one gemm block; query rows in one attention block
inline constexpr std::int64_t kScratchBytes = 512 << 10;  // per worker, 64-byte aligned

static inline int padded_head_dim(int head_dim) {
  return (head_dim + 15) / 16 * 16;
}
// K comes first: element (token t, dimension d) at (d / 2) * 32 + t * 2 + d % 2.
// Then V: element (token t, dimension d) at (t / 2) * 2 * Dp + d * 2 + t % 2.
static inline std::int64_t v_offset(int head_dim) {
  return kKvBlockTokens * static_cast<std::int64_t>(head_dim);
}
static inline std::int64_t kv_head_elements(int head_dim) {
  return kKvBlockTokens * static_cast<std::int64_t>(head_dim + padded_head_dim(head_dim));
}

enum class Store : std::uint8_t { assign, add, silu_mul };

// y[rows, cols] (=, +=) x[rows, K] panel[cols, K]^T, cols <= 64 of one panel, rows <= kMaxBlockRows. Each
// shard [bounds[s], bounds[s + 1]) of K is one chain from zero; chains are added in tree_sum's order.
// silu_mul: columns 0..31 are gates, 32..63 ups; y16[rows, cols] bf16 = silu(gate) * up, cols <= 32.
struct GemmBlock {
  const bf16* x;
  std::int64_t x_stride;
  int rows;
  const bf16* panel;
  const std::int64_t* bounds;  // shards + 1
  int shards;
  Store store;
  int cols;
  float* y;
  bf16* y16;
  std::int64_t y_stride;  // of y or y16
  const float* bias;      // null, or of this panel: [cols] for assign, gates and ups [64] for silu_mul
  void* scratch;
};

// Rows of W into their places within one panel: dword (row r, pair p) goes from row r to panel[p][r].
struct PackBlock {
  const bf16* rows;  // [count] of [2 * pairs], a stride apart
  std::int64_t stride;
  int first;  // place of the first row in the panel; first + count <= kPanel
  int count;
  std::int64_t pairs;  // of k
  bf16* panel;         // [pairs][kPanel][2], 64-byte aligned; other rows' elements stay untouched
};

// One token's heads of one owner: q and k normed and rotated, everything as bf16.
struct RopeRow {
  const float* qkv;  // [Q heads | K heads | V heads] * head_dim
  int heads, kv_heads, head_dim;
  const float* cos;  // [rotary_dim / 2] at this position, null: no rotation
  const float* sin;
  int rotary_dim;
  const float* q_norm;  // [head_dim] or null
  const float* k_norm;
  float norm_eps;
  bf16* out;  // in the order of qkv
};

// One token's K and V into one slot of its KV block.
struct AppendRow {
  const bf16* kv;  // [K heads | V heads] * head_dim
  int kv_heads, head_dim;
  bf16* block;  // head 0; head h is kv_head_elements(head_dim) * h further
  int slot;     // position % kKvBlockTokens
};

// Query tokens of one sequence against one KV head: `tokens` rows of q with `group` heads each, positions
// start .. .
struct AttentionBlock {
  const bf16* q;  // token t, head g of the group at q[t * q_stride + g * head_dim]
  std::int64_t q_stride;
  bf16* out;
  std::int64_t out_stride;
  int tokens;
  int group;
  int head_dim;
  int start;    // position of the first token
  int context;  // positions below this hold K and V of the sequence; anything else in a block is garbage
  int window;   // 0: none
  float scale;
  const bf16* kv;             // this layer's and KV head's part of block 0
  std::int64_t block_stride;  // elements from block to block
  const BlockId* blocks;
  void* scratch;
};

struct CpuKernels {
  const char* name;
  void (*gemm)(const GemmBlock&);
  void (*pack)(const PackBlock&);
  void (*rope)(const RopeRow&);
  void (*append)(const AppendRow&);
  void (*attention)(const AttentionBlock&);
  void (*rms_norm)(const float* x, const float* weight, float eps, std::int64_t n, bf16* y);
  void (*silu_mul)(const float* gate, const float* up, std::int64_t n, bf16* y);
  void (*add)(const float* x, std::int64_t n, float* y);
  // y[n] += sum of parts[0 .. count)[n] in tree_sum's order; 1 <= count <= kMaxShards.
  void (*add_tree)(const float* const* parts, int count, std::int64_t n, float* y);
  void (*to_bf16)(const float* x, std::int64_t n, bf16* y);
  // Sampling: defined operation by operation, so that all sets agree bit for bit.
  void (*argmax)(const float* x, std::int64_t n, std::int32_t* id, float* value);
  float (*sum_exp)(const float* x, std::int64_t n, float maximum);
  // Writes the indices of all x[i] that are not below `threshold` (NaN included), ascending; returns how
  // many.
  std::int64_t (*collect)(const float* x, std::int64_t n, float threshold, std::int32_t* indices);
  // Calibration: FLOPs of a register-resident loop of gemm's instruction; a read of [data, data + bytes).
  double (*multiply)(std::int64_t iterations);
  std::uint64_t (*read)(const void* data, std::int64_t bytes);
};

const CpuKernels& portable_kernels();
const CpuKernels* avx512_kernels();  // null when this build or this CPU lacks AVX512-BF16

}  // namespace nightshift::kernels
