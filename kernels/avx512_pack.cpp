// SPDX-License-Identifier: Apache-2.0
// Packing as transposes of 16 x 16 dwords, a dword being a pair of k: a cache line of each of sixteen rows
// in, sixteen whole cache lines out.
#include <immintrin.h>

#include "kernels/avx512.h"
#include "kernels/avx512_math.h"

namespace nightshift::kernels::avx512 {
namespace {

constexpr int kLanes = 16;

// Within every 128-bit lane, 4 x 4 dwords: t[4 i + j] holds columns j, 4 + j, 8 + j, 12 + j of rows 4 i .. 4
// i + 3.
void transpose_lanes(const __m512i (&r)[kLanes], __m512i (&t)[kLanes]) {
  for (int i = 0; i < kLanes; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c);
    t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d);
    t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
}

// Then 4 x 4 lanes: r[4 m + j] becomes column 4 m + j.
void transpose(__m512i (&r)[kLanes]) {
  __m512i t[kLanes];
  transpose_lanes(r, t);
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(t[j], t[4 + j], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(t[j], t[4 + j], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xee);
    r[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    r[4 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
    r[8 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
    r[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Rows [begin, end) of a panel, all within sixteen that share cache lines; `pairs` <= 16.
void pack_tile(const PackBlock& b, std::int64_t pair, int pairs, int begin, int end) {
  const int first = begin / kLanes * kLanes;
  const auto rows =
      static_cast<__mmask16>((0xffffU << (begin - first)) & (0xffffU >> (first + kLanes - end)));
  __m512i r[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const bool given = (rows >> i & 1) != 0;
    const bf16* row = given ? b.rows + (first + i - b.first) * b.stride + 2 * pair : b.rows;
    r[i] = _mm512_maskz_loadu_epi32(given ? tail_mask(pairs) : __mmask16{0}, row);
  }
  transpose(r);
  bf16* to = b.panel + pair * 2 * kPanel + 2 * first;
  for (int i = 0; i < pairs; ++i, to += 2 * kPanel) _mm512_mask_storeu_epi32(to, rows, r[i]);
}

// The same for all sixteen rows and pairs.
void pack_full_tile(const bf16* from, std::int64_t stride, bf16* to) {
  __m512i r[kLanes];
  for (int i = 0; i < kLanes; ++i) r[i] = _mm512_loadu_si512(from + i * stride);
  transpose(r);
  for (int i = 0; i < kLanes; ++i) _mm512_store_si512(to + i * 2 * kPanel, r[i]);
}

}  // namespace

// All rows of sixteen pairs before the next pairs: the result grows page by page.
void pack(const PackBlock& b) {
  for (std::int64_t pair = 0; pair < b.pairs; pair += kLanes) {
    const int pairs = b.pairs - pair < kLanes ? static_cast<int>(b.pairs - pair) : kLanes;
    for (int begin = b.first, end; begin < b.first + b.count; begin = end) {
      end = (begin / kLanes + 1) * kLanes;
      end = end < b.first + b.count ? end : b.first + b.count;
      if (end - begin == kLanes && pairs == kLanes)
        pack_full_tile(b.rows + (begin - b.first) * b.stride + 2 * pair, b.stride,
                       b.panel + pair * 2 * kPanel + 2 * begin);
      else
        pack_tile(b, pair, pairs, begin, end);
    }
  }
}

}  // namespace nightshift::kernels::avx512
