// SPDX-License-Identifier: Apache-2.0
// Products with vdpbf16ps: a tile of up to six rows by one panel of 64 columns holds 24 accumulators in
// registers, and each weight load serves all rows (Goto and van de Geijn 2008). Weights stream through once
// per row tile; the panel stays in L2 for all row tiles of a block.
#include <immintrin.h>

#include "kernels/avx512.h"
#include "kernels/avx512_math.h"

namespace nightshift::kernels::avx512 {
namespace {

constexpr int kTileRows = 6;
constexpr std::int64_t kPanelInCache = 384 << 10;  // a panel up to this size stays in L2 as a whole
constexpr std::int64_t kDepthInCache = 2048;       // else it is walked in slices of this many k (256 KiB)
// Elements to fetch ahead. Weights: 4 KiB, past the page where hardware prefetchers stop. Inputs: four cache
// lines; six rows a stride apart are too many short streams for them.
constexpr std::int64_t kWeightsAhead = 16 * 2 * kPanel;
constexpr std::int64_t kInputAhead = 128;

// acc[R][64] (+)= x[R rows][2 pairs] w[pairs][64][2]: one chain per element, continued when
// `resume`. `cold`: these weights are read for the first time, so fetch them ahead.
template <int R>
void chain(const bf16* x, std::int64_t x_stride, const bf16* w, std::int64_t pairs, bool resume, bool cold,
           float* acc) {
  __m512 sum[R][4];
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < 4; ++j)
      sum[r][j] = resume ? _mm512_load_ps(acc + r * kPanel + 16 * j) : _mm512_setzero_ps();
  }
  for (std::int64_t p = 0; p < pairs; ++p, w += 2 * kPanel) {
    if (cold) {
      for (int j = 0; j < 4; ++j) prefetch(w + kWeightsAhead + 32 * j);
    }
    if (p % 16 == 0) {  // a new cache line of x
      for (int r = 0; r < R; ++r) prefetch(x + r * x_stride + 2 * p + kInputAhead);
    }
    __m512bh weights[4];
    for (int j = 0; j < 4; ++j) weights[j] = load_pairs(w + 32 * j);
    for (int r = 0; r < R; ++r) {
      const __m512bh pair = broadcast_pair(x + r * x_stride + 2 * p);
      for (int j = 0; j < 4; ++j) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], pair, weights[j]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < 4; ++j) _mm512_store_ps(acc + r * kPanel + 16 * j, sum[r][j]);
  }
}

using Chain = void (*)(const bf16*, std::int64_t, const bf16*, std::int64_t, bool, bool, float*);
constexpr Chain kChains[kTileRows + 1] = {nullptr,  chain<1>, chain<2>, chain<3>,
                                          chain<4>, chain<5>, chain<6>};

// Rows [row, row + rows) of a block, cut into tiles of nearly equal height: 4 + 4 keeps the multiplier busier
// than 6 + 2.
struct RowGroup {
  int row;
  int rows;
  int tiles;
};

void shard_sum(const GemmBlock& b, const RowGroup& g, int s, float* acc) {
  const std::int64_t begin = b.bounds[s];
  const std::int64_t end = b.bounds[s + 1];
  const std::int64_t slice = g.tiles == 1 ? end - begin : kDepthInCache;
  if (begin == end) fill_zero(acc, static_cast<std::int64_t>(g.rows) * kPanel);
  for (std::int64_t k = begin; k < end; k += slice) {
    const std::int64_t depth = end - k < slice ? end - k : slice;
    for (int tile = 0; tile < g.tiles; ++tile) {
      const int first = g.rows * tile / g.tiles;
      const int rows = g.rows * (tile + 1) / g.tiles - first;
      kChains[rows](b.x + (g.row + first) * b.x_stride + k, b.x_stride, b.panel + k * kPanel, depth / 2,
                    k > begin, g.row + first == 0, acc + first * kPanel);
    }
  }
}

__mmask16 columns_mask(int cols, int j) {
  const int left = cols - 16 * j;
  return left <= 0 ? __mmask16{0} : tail_mask(left);
}

void store_row(const GemmBlock& b, float* acc, std::int64_t at) {
  if (b.store == Store::silu_mul) {
    if (b.bias != nullptr) add(b.bias, kPanel, acc);
    return silu_mul(acc, acc + kPanel / 2, b.cols, b.y16 + at);
  }
  for (int j = 0; j < 4; ++j) {
    const __mmask16 mask = columns_mask(b.cols, j);
    __m512 y = _mm512_load_ps(acc + 16 * j);
    if (b.store == Store::add) y = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, b.y + at + 16 * j), y);
    if (b.bias != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, b.bias + 16 * j));
    _mm512_mask_storeu_ps(b.y + at + 16 * j, mask, y);
  }
}

}  // namespace

// Shard sums wait on a stack and are added like carries of a binary counter (tree_sum's order). A panel that
// fits in L2 is walked tile by tile, so that sums never leave L1; a larger one slice by slice of K, each for
// all rows.
void gemm(const GemmBlock& b) {
  auto* stack = static_cast<float*>(b.scratch);
  const int tiles = (b.rows + kTileRows - 1) / kTileRows;
  const std::int64_t panel_bytes = b.bounds[b.shards] * kPanel * 2;
  const int groups = panel_bytes <= kPanelInCache ? tiles : 1;
  for (int i = 0; i < groups; ++i) {
    const int row = b.rows * i / groups;
    const RowGroup g{row, b.rows * (i + 1) / groups - row, tiles / groups};
    const std::int64_t level = static_cast<std::int64_t>(g.rows) * kPanel;
    int depth = 0;
    for (int s = 0; s < b.shards; ++s) {
      shard_sum(b, g, s, stack + level * depth++);
      for (int carry = s; (carry & 1) != 0; carry >>= 1, --depth)
        add(stack + level * (depth - 1), level, stack + level * (depth - 2));
    }
    for (; depth > 1; --depth) add(stack + level * (depth - 1), level, stack + level * (depth - 2));
    for (int r = 0; r < g.rows; ++r)
      store_row(b, stack + static_cast<std::int64_t>(r) * kPanel, (g.row + r) * b.y_stride);
  }
}

double multiply(std::int64_t iterations) {
  __m512 sum[24];
#pragma GCC unroll 24
  for (int j = 0; j < 24; ++j)
    sum[j] = _mm512_set1_ps(static_cast<float>(j));  // different, or one chain would do for all
  __m512bh x = broadcast_bits(0x3f803f80U);
  __m512bh w = x;
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < 24; ++j) sum[j] = _mm512_dpbf16_ps(sum[j], x, w);
    asm volatile("" : "+v"(x), "+v"(w));  // a product the compiler cannot know is computed every time
  }
#pragma GCC unroll 24
  for (int j = 0; j < 24; ++j) asm volatile("" : : "v"(sum[j]));
  return static_cast<double>(iterations) * 24 * 16 * 2 * 2;
}

}  // namespace nightshift::kernels::avx512
