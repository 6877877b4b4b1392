// SPDX-License-Identifier: Apache-2.0
// Attention as two small products per tile of 64 keys (Dao et al. 2022): scores = Q K^T with the query rows
// of a KV head as rows, softmax weights rounded to bf16, then weights x V, both with vdpbf16ps.
//
// Bits: tiles start at multiples of 64 positions and are merged in order. For a row, a tile that it does not
// see is an exact no-op (maximum unchanged, factor exactly 1, weights exactly 0), so it does not matter with
// which other rows, and so how many masked tiles, a row is computed. Garbage in masked slots never enters:
// masked scores are replaced, and V of the last block is copied with everything behind the context zeroed.
#include <immintrin.h>

#include "kernels/avx512.h"
#include "kernels/avx512_math.h"

namespace nightshift::kernels::avx512 {
namespace {

constexpr int kTile = 64;
constexpr int kTileBlocks = kTile / kKvBlockTokens;
constexpr int kRows = 6;        // query rows that share the registers
constexpr int kStreamRows = 4;  // up to this many, K and V are fetched ahead: decode waits for memory
constexpr float kNothing =
    -1e30F;  // maximum of a row that has seen no key; finite, so differences stay numbers

struct Rows {
  int count;
  int lowest;  // positions of the first and last row
  int highest;
  const bf16* q[kRows];
  int position[kRows];
};

// What a block of query rows keeps from tile to tile, in scratch.
struct State {
  float* maximum;  // [rows]
  float* total;    // [rows][16 lanes]
  float* sum;      // [rows][Dp] of weight * V
};

struct KeyTile {
  int first;                   // position
  int blocks;                  // with any key below the context
  const bf16* k[kTileBlocks];  // always readable; behind the context repeats of the last block
  const bf16* v[kTileBlocks];
  const bf16* next[kTileBlocks];  // K and V of the following tile, to be prefetched
  const bf16* next_v[kTileBlocks];
};

template <int R>
void score(const Rows& rows, const KeyTile& tile, int head_dim, __m512 (&s)[R][kTileBlocks]) {
  for (auto& row : s) {
    for (auto& lane : row) lane = _mm512_setzero_ps();
  }
  for (int d = 0; d < head_dim; d += 2) {
    __m512bh keys[kTileBlocks];
    for (int j = 0; j < kTileBlocks; ++j) {
      keys[j] = load_pairs(tile.k[j] + d * kKvBlockTokens);
      if constexpr (R <= kStreamRows) prefetch(tile.next[j] + d * kKvBlockTokens);
    }
    for (int r = 0; r < R; ++r) {
      const __m512bh q = broadcast_pair(rows.q[r] + d);
      for (int j = 0; j < kTileBlocks; ++j) s[r][j] = _mm512_dpbf16_ps(s[r][j], q, keys[j]);
    }
  }
}

// Scores of keys that position p does not see become -inf.
template <int R>
void mask(const Rows& rows, const KeyTile& tile, int window, __m512 (&s)[R][kTileBlocks]) {
  const __m512 hidden = _mm512_set1_ps(-__builtin_inff());
  for (int r = 0; r < R; ++r) {
    const int end = rows.position[r] + 1 - tile.first;  // keys [begin, end) of the tile are seen
    const int begin = window > 0 ? end - window : 0;
    std::uint64_t seen = end >= kTile ? ~std::uint64_t{0} : end <= 0 ? 0 : (std::uint64_t{1} << end) - 1;
    if (begin > 0) seen &= begin >= kTile ? 0 : ~std::uint64_t{0} << begin;
    for (int j = 0; j < kTileBlocks; ++j) {
      s[r][j] = _mm512_mask_mov_ps(hidden, static_cast<__mmask16>(seen >> (16 * j)), s[r][j]);
    }
  }
}

// Turns scores into weights (bf16, [R][64]) under the new maximum and returns the factors for what was summed
// before.
template <int R>
void softmax(__m512 (&s)[R][kTileBlocks], float scale, State state, int first_row, std::uint16_t* weights,
             float* keep) {
  alignas(64) float maximum[16];
  _mm512_store_ps(maximum, _mm512_setzero_ps());
  for (int r = 0; r < R; ++r) {
    maximum[r] = lane_max(_mm512_max_ps(_mm512_max_ps(s[r][0], s[r][1]), _mm512_max_ps(s[r][2], s[r][3])));
  }
  const __mmask16 lanes = tail_mask(R);
  const __m512 before = _mm512_maskz_loadu_ps(lanes, state.maximum + first_row);
  const __m512 after = _mm512_max_ps(_mm512_mul_ps(_mm512_load_ps(maximum), _mm512_set1_ps(scale)), before);
  _mm512_mask_storeu_ps(state.maximum + first_row, lanes, after);
  _mm512_store_ps(maximum, after);
  _mm512_store_ps(keep, exp2_softmax(_mm512_sub_ps(before, after)));
  for (int r = 0; r < R; ++r) {
    for (auto& lane : s[r])
      lane = exp2_softmax(_mm512_fmsub_ps(lane, _mm512_set1_ps(scale), _mm512_set1_ps(maximum[r])));
    float* total = state.total + (first_row + r) * 16;
    const __m512 tile_total = _mm512_add_ps(_mm512_add_ps(s[r][0], s[r][1]), _mm512_add_ps(s[r][2], s[r][3]));
    _mm512_store_ps(total, _mm512_fmadd_ps(_mm512_load_ps(total), _mm512_set1_ps(keep[r]), tile_total));
    for (int j = 0; j < kTileBlocks; j += 2) {
      _mm512_store_si512(weights + r * kTile + 16 * j,
                         reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(s[r][j + 1], s[r][j])));
    }
  }
}

// sum[R][16 C dimensions] = keep * sum + weights V, one chain per element in key order.
template <int R, int C>
void weigh(const KeyTile& tile, const std::uint16_t* weights, const float* keep, int padded, int dimension,
           float* sum) {
  __m512 acc[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) {
      acc[r][c] = _mm512_mul_ps(_mm512_load_ps(sum + r * padded + 16 * c), _mm512_set1_ps(keep[r]));
    }
  }
  for (int j = 0; j < tile.blocks; ++j) {
    const bf16* v = tile.v[j] + 2 * dimension;
    const bf16* next = tile.next_v[j] + 2 * dimension;
    for (int pair = 0; pair < kKvBlockTokens / 2; ++pair, v += 2 * padded, next += 2 * padded) {
      __m512bh values[C];
      for (int c = 0; c < C; ++c) {
        values[c] = load_pairs(v + 32 * c);
        if constexpr (R <= kStreamRows) prefetch(next + 32 * c);
      }
      for (int r = 0; r < R; ++r) {
        const __m512bh w = broadcast_pair(weights + r * kTile + j * kKvBlockTokens + 2 * pair);
        for (int c = 0; c < C; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], w, values[c]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) _mm512_store_ps(sum + r * padded + 16 * c, acc[r][c]);
  }
}

template <int R>
void weigh_all(const KeyTile& tile, const std::uint16_t* weights, const float* keep, int padded, float* sum) {
  int d = 0;
  for (; d + 64 <= padded; d += 64) weigh<R, 4>(tile, weights, keep, padded, d, sum + d);
  switch ((padded - d) / 16) {
    case 1:
      weigh<R, 1>(tile, weights, keep, padded, d, sum + d);
      break;
    case 2:
      weigh<R, 2>(tile, weights, keep, padded, d, sum + d);
      break;
    case 3:
      weigh<R, 3>(tile, weights, keep, padded, d, sum + d);
      break;
    default:
      break;
  }
}

template <int R>
void merge(const AttentionBlock& b, const Rows& rows, const KeyTile& tile, State state, int first_row) {
  __m512 s[R][kTileBlocks];
  score<R>(rows, tile, b.head_dim, s);
  const bool whole =
      tile.first + kTile - 1 <= rows.lowest && (b.window == 0 || tile.first > rows.highest - b.window);
  if (!whole) mask<R>(rows, tile, b.window, s);
  alignas(64) std::uint16_t weights[R * kTile];
  alignas(64) float keep[16];
  softmax<R>(s, b.scale * kLog2e, state, first_row, weights, keep);
  const int padded = padded_head_dim(b.head_dim);
  weigh_all<R>(tile, weights, keep, padded, state.sum + static_cast<std::int64_t>(first_row) * padded);
}

using Merge = void (*)(const AttentionBlock&, const Rows&, const KeyTile&, State, int);
constexpr Merge kMerges[kRows + 1] = {nullptr, merge<1>, merge<2>, merge<3>, merge<4>, merge<5>, merge<6>};

Rows rows_of(const AttentionBlock& b, int first, int count) {
  Rows rows{};
  rows.count = count;
  for (int i = 0; i < count; ++i) {
    const int token = (first + i) / b.group;
    rows.q[i] = b.q + token * b.q_stride + static_cast<std::int64_t>((first + i) % b.group) * b.head_dim;
    rows.position[i] = b.start + token;
  }
  rows.lowest = rows.position[0];
  rows.highest = rows.position[count - 1];
  return rows;
}

// V of a block whose slots from `tokens` on are not part of the sequence, those slots zeroed.
void copy_values(const bf16* v, int tokens, int padded, bf16* to) {
  for (int pair = 0; pair < kKvBlockTokens / 2; ++pair) {
    const int left = tokens - 2 * pair;
    const __mmask32 keep = left >= 2 ? 0xffffffffU : left == 1 ? 0x55555555U : 0;
    for (int d = 0; d < 2 * padded; d += 32) {
      const int at = pair * 2 * padded + d;
      _mm512_storeu_si512(to + at, _mm512_maskz_loadu_epi16(keep, v + at));
    }
  }
}

const bf16* block_at(const AttentionBlock& b, int block) {
  return b.kv + b.blocks[block] * b.block_stride;
}

KeyTile tile_at(const AttentionBlock& b, int first, bf16* last_values) {
  KeyTile tile{};
  tile.first = first;
  const int last_block = (b.context - 1) / kKvBlockTokens;
  const int first_block = first / kKvBlockTokens;
  tile.blocks = last_block - first_block + 1 < kTileBlocks ? last_block - first_block + 1 : kTileBlocks;
  for (int j = 0; j < kTileBlocks; ++j) {
    const int block = first_block + j < last_block ? first_block + j : last_block;
    tile.k[j] = block_at(b, block);
    tile.v[j] = tile.k[j] + v_offset(b.head_dim);
    tile.next[j] = block_at(b, block + kTileBlocks < last_block ? block + kTileBlocks : last_block);
    tile.next_v[j] = tile.next[j] + v_offset(b.head_dim);
  }
  const int behind = b.context - last_block * kKvBlockTokens;  // tokens of the last block
  if (tile.blocks > 0 && first_block + tile.blocks - 1 == last_block && behind < kKvBlockTokens) {
    copy_values(tile.v[tile.blocks - 1], behind, padded_head_dim(b.head_dim), last_values);
    tile.v[tile.blocks - 1] = last_values;
  }
  return tile;
}

// out = sum / total. Adding +0 makes -0 and +0 one result: a masked tile may turn a sum of -0 into +0.
void finish_row(const AttentionBlock& b, State state, int row) {
  const __m512 inverse = _mm512_set1_ps(1.0F / lane_sum(_mm512_load_ps(state.total + row * 16)));
  float* sum = state.sum + static_cast<std::int64_t>(row) * padded_head_dim(b.head_dim);
  for (int d = 0; d < b.head_dim; d += 16) {
    _mm512_store_ps(sum + d,
                    _mm512_add_ps(_mm512_mul_ps(_mm512_load_ps(sum + d), inverse), _mm512_setzero_ps()));
  }
  bf16* out = b.out + row / b.group * b.out_stride + static_cast<std::int64_t>(row % b.group) * b.head_dim;
  to_bf16(sum, b.head_dim, out);
}

}  // namespace

void attention(const AttentionBlock& b) {
  const int rows = b.tokens * b.group;
  const int padded = padded_head_dim(b.head_dim);
  State state{};
  state.maximum = static_cast<float*>(b.scratch);
  state.total = state.maximum + kMaxBlockRows;
  state.sum = state.total + kMaxBlockRows * 16;
  auto* last_values = reinterpret_cast<bf16*>(state.sum + static_cast<std::int64_t>(rows) * padded);
  for (int r = 0; r < rows; ++r) state.maximum[r] = kNothing;
  fill_zero(state.total, static_cast<std::int64_t>(rows) * 16);
  fill_zero(state.sum, static_cast<std::int64_t>(rows) * padded);

  const int groups = (rows + kRows - 1) / kRows;
  const int last = b.start + b.tokens - 1;
  const int begin = b.window > 0 && b.start >= b.window ? (b.start - b.window + 1) / kTile * kTile : 0;
  for (int first = begin; first <= last; first += kTile) {
    const KeyTile tile = tile_at(b, first, last_values);
    for (int i = 0; i < groups; ++i) {
      const int row = rows * i / groups;
      const Rows group = rows_of(b, row, rows * (i + 1) / groups - row);
      if (first > group.highest) continue;
      kMerges[group.count](b, group, tile, state, row);
    }
  }
  for (int r = 0; r < rows; ++r) finish_row(b, state, r);
}

}  // namespace nightshift::kernels::avx512
