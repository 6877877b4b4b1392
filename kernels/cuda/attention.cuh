// SPDX-License-Identifier: Apache-2.0
// Paged attention on tensor cores, one arithmetic for prefill, decode, any chunking and any split.
//
// Keys go in tiles of 64 and segments of 1,024 positions, both at absolute positions. Within a segment a row
// runs an online softmax from tile to tile (Milakov and Gimelshein 2018; Dao et al., FlashAttention-2, 2023);
// segments start anew and are merged in order of position. A block that walks all segments of many rows
// (prefill) and blocks that take one segment each of few rows (decode, Flash-Decoding, Dao et al. 2023)
// therefore do the same operations on a row in the same order. Tiles that a row may not see change nothing:
// their weights are zeros and its maximum stays.
//
// A warp owns 16 rows: queries of consecutive tokens, each with the heads that share the KV head, flattened.
// Warps of a block share the tiles in shared memory. Rows there are 8 elements longer than D, an odd number
// of 16-byte chunks, so that the eight rows of a matrix load lie in different banks.
#pragma once

#include "core/types.h"
#include "kernels/cuda/lane.cuh"

namespace nightshift::kernels::cuda {

inline constexpr int kTileTokens = 64;
inline constexpr int kSegmentTokens = 1024;
inline constexpr int kWarpRows = 16;
inline constexpr int kRowPad = 8;
inline constexpr int kStages = 2;

// Rows of one slice against one KV head: flattened queries first .. first + rows - 1, query i is head i %
// group of token i / group.
struct AttentionItem {
  std::int32_t first_row;    // of the batch: the slice's token 0
  std::int32_t start;        // its position
  std::int32_t context;      // positions below this are written
  std::int32_t first_block;  // of the slice, in `blocks`
  std::int32_t first, rows;
  std::int32_t segment;  // the one to take, or -1: all
  std::int32_t partial;  // where its sums go when it takes one of several; else -1
};

struct AttentionArguments {
  const bf16* q;  // [batch rows, heads D]
  bf16* out;
  std::int64_t q_stride, out_stride;
  const bf16* kv;  // of the layer: [block][KV head][K [16, D], V [16, D]]
  const BlockId* blocks;
  const AttentionItem* items;
  float* partial_sums;    // [partial][KV head][16, D]
  float* partial_scales;  // [partial][KV head][maximum, total][16]
  int kv_heads, group, window;
  float scale;  // times log2(e)
};

// Of one segment's rows: sums, maxima and totals.
constexpr std::size_t partial_floats(int head_dim) {
  return static_cast<std::size_t>(kWarpRows) * (static_cast<std::size_t>(head_dim) + 2);
}

constexpr std::size_t attention_shared_bytes(int head_dim, int warps, bool several_segments) {
  const std::size_t row = static_cast<std::size_t>(head_dim) + kRowPad;
  return 2 * row * (static_cast<std::size_t>(kWarpRows) * warps + std::size_t{2} * kStages * kTileTokens) +
         (several_segments ? sizeof(float) * kWarpRows * warps * head_dim : 0);
}

inline constexpr float kNothing = -1e30F;  // a maximum over no keys; finite, so that differences are

#if defined(__CUDACC__)
NS_DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#else
inline float power_of_two(float x) {
  return std::exp2(x);
}
#endif

NS_DEVICE float larger(float a, float b) {
  return a > b ? a : b;
}

// A total of earlier segments and the sum of one more, scaled to a common maximum.
NS_DEVICE float merged(float total, float keep, float part, float weight) {
  return sum(product(total, keep), product(part, weight));
}

// Sixteen rows' running softmax in the registers of a warp: lane holds rows lane / 4 (h = 0) and lane / 4 + 8
// (h = 1), of each group of 8 columns the pair 2 (lane % 4).
template <int D>
struct RowSums {
  float values[D / 8][4];
  float maximum[2], total[2];

  NS_DEVICE void clear() {
    for (int n = 0; n < D / 8; ++n)
      for (int i = 0; i < 4; ++i) values[n][i] = 0.0F;
    for (int h = 0; h < 2; ++h) maximum[h] = kNothing, total[h] = 0.0F;
  }
};

// The position of a flattened query, -1 behind the item's last.
NS_DEVICE int position_of(const AttentionItem& item, int query, int group) {
  return query < item.first + item.rows ? item.start + query / group : -1;
}

template <int D>
NS_DEVICE void load_queries(const AttentionArguments& a, const AttentionItem& item, int kv_head, int rows,
                            std::uint16_t* shared) {
  constexpr int kChunks = D / 8;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kChunks; i += static_cast<int>(blockDim.x)) {
    const int r = i / kChunks, chunk = i % kChunks, query = item.first + r;
    const bool valid = r < item.rows;
    const std::int64_t row = item.first_row + (valid ? query / a.group : 0);
    const std::int64_t head = static_cast<std::int64_t>(kv_head) * a.group + (valid ? query % a.group : 0);
    copy_async(shared + r * (D + kRowPad) + chunk * 8, a.q + row * a.q_stride + head * D + chunk * 8, valid);
  }
}

// K and V of positions 64 tile .. into shared memory [64, D + 8] each; zeros from `context` on, since
// whatever lies there may be NaN.
template <int D>
NS_DEVICE void load_tile(const AttentionArguments& a, const AttentionItem& item, int kv_head, int tile,
                         std::uint16_t* k, std::uint16_t* v) {
  constexpr int kChunks = D / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kTileTokens * kChunks; i += static_cast<int>(blockDim.x)) {
    const int token = i / kChunks, chunk = i % kChunks, position = tile * kTileTokens + token;
    const bool valid = position < item.context;
    const std::int64_t block = valid ? a.blocks[item.first_block + position / kKvBlockTokens] : 0;
    const bf16* head = a.kv + (block * a.kv_heads + kv_head) * (2 * kKvBlockTokens * D) +
                       position % kKvBlockTokens * D + chunk * 8;
    copy_async(k + token * (D + kRowPad) + chunk * 8, head, valid);
    copy_async(v + token * (D + kRowPad) + chunk * 8, head + kKvBlockTokens * D, valid);
  }
}

// scores[16, 64] = q k^T
template <int D>
NS_DEVICE void multiply_keys(const std::uint16_t* q, const std::uint16_t* k, float (&scores)[8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int n = 0; n < 8; ++n)
    for (int i = 0; i < 4; ++i) scores[n][i] = 0.0F;
#pragma unroll
  for (int d = 0; d < D; d += 16) {
    std::uint32_t a[4], b[4];
    load_matrices(a, q + (lane % 16) * (D + kRowPad) + d + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < 8; n += 2) {  // 16 keys: two column groups, two halves of d each
      load_matrices(b, k + (n * 8 + lane % 8 + lane / 16 * 8) * (D + kRowPad) + d + lane / 8 % 2 * 8);
      multiply(scores[n], a, b[0], b[1]);
      multiply(scores[n + 1], a, b[2], b[3]);
    }
  }
}

// Scores to weights of the rows' running maxima, which they may raise: what is there is scaled down.
template <int D>
NS_DEVICE void weigh(float (&scores)[8][4], int first_key, const int (&position)[2], int window, float scale,
                     RowSums<D>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float maximum = sums.maximum[h];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        const int key = first_key + n * 8 + lane % 4 * 2 + i % 2;
        const bool seen = key <= position[h] && (window == 0 || key > position[h] - window);
        scores[n][i] = seen ? product(scores[n][i], scale) : 2 * kNothing;
        maximum = larger(maximum, scores[n][i]);
      }
    }
    maximum = larger(maximum, from_lane_xor(maximum, 1));
    maximum = larger(maximum, from_lane_xor(maximum, 2));
    const float keep = power_of_two(difference(sums.maximum[h], maximum));
    float total = 0.0F;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        scores[n][i] = power_of_two(difference(scores[n][i], maximum));  // of 2 * kNothing: 0
        total = sum(total, scores[n][i]);
      }
    }
    total = sum(total, from_lane_xor(total, 1));
    total = sum(total, from_lane_xor(total, 2));
    sums.total[h] = sum(product(sums.total[h], keep), total);
    sums.maximum[h] = maximum;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      sums.values[n][2 * h] = product(sums.values[n][2 * h], keep);
      sums.values[n][2 * h + 1] = product(sums.values[n][2 * h + 1], keep);
    }
  }
}

// sums += weights v
template <int D>
NS_DEVICE void add_values(const float (&weights)[8][4], const std::uint16_t* v, RowSums<D>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int n = 0; n < 8; n += 2) {  // 16 keys
    const std::uint32_t a[4] = {pair_of(weights[n][0], weights[n][1]), pair_of(weights[n][2], weights[n][3]),
                                pair_of(weights[n + 1][0], weights[n + 1][1]),
                                pair_of(weights[n + 1][2], weights[n + 1][3])};
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      std::uint32_t b[4];
      load_matrices_transposed(b, v + (n * 8 + lane % 16) * (D + kRowPad) + d + lane / 16 * 8);
      multiply(sums.values[d / 8], a, b[0], b[1]);
      multiply(sums.values[d / 8 + 1], a, b[2], b[3]);
    }
  }
}

// total <- total and sums; `total` [16, D] of this warp in shared memory, its scales in registers.
template <int D>
NS_DEVICE void merge_segment(const RowSums<D>& sums, float* total, float (&maximum)[2], float (&totals)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float most = larger(maximum[h], sums.maximum[h]);
    const float keep = power_of_two(difference(maximum[h], most));
    const float weight = power_of_two(difference(sums.maximum[h], most));
    float* row = total + (lane / 4 + 8 * h) * D + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      row[n * 8] = merged(row[n * 8], keep, sums.values[n][2 * h], weight);
      row[n * 8 + 1] = merged(row[n * 8 + 1], keep, sums.values[n][2 * h + 1], weight);
    }
    totals[h] = merged(totals[h], keep, sums.total[h], weight);
    maximum[h] = most;
  }
}

template <int D>
NS_DEVICE void write_rows(const AttentionArguments& a, const AttentionItem& item, int kv_head, int first,
                          const RowSums<D>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = first + lane / 4 + 8 * h;
    if (query >= item.first + item.rows) continue;
    const std::int64_t row = item.first_row + query / a.group;
    const std::int64_t head = static_cast<std::int64_t>(kv_head) * a.group + query % a.group;
    bf16* out = a.out + row * a.out_stride + head * D + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      out[n * 8].bits = static_cast<std::uint16_t>(bf16_bits(quotient(sums.values[n][2 * h], sums.total[h])));
      out[n * 8 + 1].bits =
          static_cast<std::uint16_t>(bf16_bits(quotient(sums.values[n][2 * h + 1], sums.total[h])));
    }
  }
}

template <int D>
NS_DEVICE void write_partial(const AttentionArguments& a, const AttentionItem& item, int kv_head,
                             const RowSums<D>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t slot = static_cast<std::int64_t>(item.partial) * a.kv_heads + kv_head;
  float* values = a.partial_sums + slot * kWarpRows * D;
  float* scales = a.partial_scales + slot * 2 * kWarpRows;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      values[row * D + n * 8 + lane % 4 * 2] = sums.values[n][2 * h];
      values[row * D + n * 8 + lane % 4 * 2 + 1] = sums.values[n][2 * h + 1];
    }
    if (lane % 4 == 0) {
      scales[row] = sums.maximum[h];
      scales[kWarpRows + row] = sums.total[h];
    }
  }
}

// grid: (items, KV heads); 32 kWarps threads, items of at most 16 kWarps rows. kAll: items walk all their
// segments, and shared memory has room for the totals; else each takes one.
template <int D, int kWarps, bool kAll>
NS_KERNEL attention_kernel(AttentionArguments a) {
  NS_DYNAMIC_SHARED(shared);
  constexpr int kStride = D + kRowPad;
  constexpr int kTile = kTileTokens * kStride;
  constexpr int kTilesPerSegment = kSegmentTokens / kTileTokens;
  auto* q = reinterpret_cast<std::uint16_t*>(shared);                    // [16 kWarps, D + 8]
  std::uint16_t* tiles = q + kWarpRows * kWarps * kStride;               // [stage][K, V][64, D + 8]
  auto* totals = reinterpret_cast<float*>(tiles + 2 * kStages * kTile);  // [16 kWarps, D]

  const AttentionItem item = a.items[blockIdx.x];
  if (item.rows == 0) return;  // fills up a list
  const int kv_head = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first = item.first + warp * kWarpRows;
  const int position[2] = {position_of(item, first + lane / 4, a.group),
                           position_of(item, first + lane / 4 + 8, a.group)};
  const int oldest = item.start + item.first / a.group;  // of the item's first row; the last row's:
  const int newest = item.start + (item.first + item.rows - 1) / a.group;
  const int first_key = a.window > 0 && oldest >= a.window ? oldest - a.window + 1 : 0;
  int begin = first_key / kTileTokens, end = newest / kTileTokens + 1;
  if (!kAll && item.segment >= 0) {
    begin = begin > item.segment * kTilesPerSegment ? begin : item.segment * kTilesPerSegment;
    end = end < (item.segment + 1) * kTilesPerSegment ? end : (item.segment + 1) * kTilesPerSegment;
  }

  float* total = totals + warp * kWarpRows * D;
  float total_maximum[2] = {kNothing, kNothing}, total_totals[2] = {0.0F, 0.0F};
  if (kAll)
    for (int i = lane; i < kWarpRows * D; i += kWarp) total[i] = 0.0F;

  load_queries<D>(a, item, kv_head, kWarpRows * kWarps, q);
  if (begin < end) load_tile<D>(a, item, kv_head, begin, tiles, tiles + kTile);
  copy_async_commit();

  RowSums<D> sums;
  sums.clear();
  for (int tile = begin; tile < end; ++tile) {
    const int stage = (tile - begin) % kStages;
    std::uint16_t* k = tiles + 2 * stage * kTile;
    std::uint16_t* next = tiles + 2 * ((stage + 1) % kStages) * kTile;
    if (tile + 1 < end) load_tile<D>(a, item, kv_head, tile + 1, next, next + kTile);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    float scores[8][4];
    multiply_keys<D>(q + warp * kWarpRows * kStride, k, scores);
    weigh<D>(scores, tile * kTileTokens, position, a.window, a.scale, sums);
    add_values<D>(scores, k + kTile, sums);
    if (kAll && ((tile + 1) % kTilesPerSegment == 0 || tile + 1 == end)) {
      merge_segment<D>(sums, total, total_maximum, total_totals);
      sums.clear();
    }
    __syncthreads();  // the tile may be overwritten
  }

  if (kAll) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float* row = total + (lane / 4 + 8 * h) * D + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        sums.values[n][2 * h] = row[n * 8];
        sums.values[n][2 * h + 1] = row[n * 8 + 1];
      }
      sums.total[h] = total_totals[h];
    }
  }
  if (!kAll && item.partial >= 0) {
    write_partial<D>(a, item, kv_head, sums);
  } else {
    write_rows<D>(a, item, kv_head, first, sums);
  }
}

// Segments of one item's rows, `count` partials from `partial` on, merged in order.
struct MergeItem {
  AttentionItem item;
  std::int32_t partial, count;
};

// grid: (merge items, KV heads); one thread for each of D elements, rows one after the other.
template <int D>
NS_KERNEL merge_kernel(AttentionArguments a, const MergeItem* items) {
  const MergeItem m = items[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  for (int i = static_cast<int>(threadIdx.x); i < m.item.rows * D; i += static_cast<int>(blockDim.x)) {
    const int r = i / D, d = i % D;
    float value = 0.0F, maximum = kNothing, total = 0.0F;
    for (int s = 0; s < m.count; ++s) {
      const std::int64_t slot = static_cast<std::int64_t>(m.partial + s) * a.kv_heads + kv_head;
      const float* scales = a.partial_scales + slot * 2 * kWarpRows;
      const float most = larger(maximum, scales[r]);
      const float keep = power_of_two(difference(maximum, most));
      const float weight = power_of_two(difference(scales[r], most));
      value = merged(value, keep, a.partial_sums[(slot * kWarpRows + r) * D + d], weight);
      total = merged(total, keep, scales[kWarpRows + r], weight);
      maximum = most;
    }
    const int query = m.item.first + r;
    const std::int64_t row = m.item.first_row + query / a.group;
    const std::int64_t head = static_cast<std::int64_t>(kv_head) * a.group + query % a.group;
    a.out[row * a.out_stride + head * D + d].bits =
        static_cast<std::uint16_t>(bf16_bits(quotient(value, total)));
  }
}

}  // namespace nightshift::kernels::cuda
