// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/avx512.h"
#include "kernels/avx512_math.h"

namespace nightshift::kernels::avx512 {
namespace {

// 1 / sqrt(mean of squares + eps); four chains of sixteen lanes, then the lane tree.
float inverse_rms(const float* x, std::int64_t n, float eps) {
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  for (std::int64_t i = 0; i < n; i += 64) {
    for (int j = 0; j < 4; ++j) {
      const std::int64_t left = n - i - 16 * j;
      if (left <= 0) break;
      const __m512 v = _mm512_maskz_loadu_ps(tail_mask(left), x + i + 16 * j);
      sum[j] = _mm512_fmadd_ps(v, v, sum[j]);
    }
  }
  const float squares = lane_sum(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
  return 1.0F / __builtin_sqrtf(squares / static_cast<float>(n) + eps);
}

void store_bf16(bf16* y, __mmask16 mask, __m512 x) {
  _mm256_mask_storeu_epi16(y, mask, to_bf16_bits(x));
}

void norm_head(const float* weight, float eps, int n, float* x) {
  if (weight == nullptr) return;
  const __m512 scale = _mm512_set1_ps(inverse_rms(x, n, eps));
  for (int i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 w = _mm512_maskz_loadu_ps(mask, weight + i);
    _mm512_mask_storeu_ps(x + i, mask,
                          _mm512_mul_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale), w));
  }
}

void rotate_head(const RopeRow& r, float* x) {
  if (r.cos == nullptr) return;
  const int half = r.rotary_dim / 2;
  for (int i = 0; i < half; i += 16) {
    const __mmask16 mask = tail_mask(half - i);
    const __m512 a = _mm512_maskz_loadu_ps(mask, x + i);
    const __m512 b = _mm512_maskz_loadu_ps(mask, x + half + i);
    const __m512 c = _mm512_maskz_loadu_ps(mask, r.cos + i);
    const __m512 s = _mm512_maskz_loadu_ps(mask, r.sin + i);
    _mm512_mask_storeu_ps(x + i, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
    _mm512_mask_storeu_ps(x + half + i, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
  }
}

// A token's pairs of dimensions lie 64 bytes apart in K.
void store_k(const AppendRow& a, const bf16* k, bf16* head) {
  bf16* to = head + 2 * a.slot;
  for (int d = 0; d < a.head_dim; d += 2, to += 2 * kKvBlockTokens)
    __builtin_memcpy(static_cast<void*>(to), k + d, 4);
}

// V interleaves two tokens. Writing only this token's 16-bit halves lets another thread write the other
// token's.
void store_v(const AppendRow& a, const bf16* v, bf16* head) {
  const int padded = padded_head_dim(a.head_dim);
  bf16* pair = head + v_offset(a.head_dim) + static_cast<std::int64_t>(a.slot / 2) * 2 * padded;
  const __mmask32 half = a.slot % 2 == 0 ? 0x55555555U : 0xaaaaaaaaU;
  for (int d = 0; d < padded; d += 16) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(tail_mask(a.head_dim - d), v + d));
    _mm512_mask_storeu_epi16(pair + 2 * d, half, a.slot % 2 == 0 ? low : _mm512_slli_epi32(low, 16));
  }
}

void take_head(const float* source, int head_dim, float* x) {
  for (int d = 0; d < head_dim; d += 16)
    _mm512_store_ps(x + d, _mm512_maskz_loadu_ps(tail_mask(head_dim - d), source + d));
}

}  // namespace

void rope(const RopeRow& r) {
  const float* source = r.qkv;
  bf16* out = r.out;
  alignas(64) float x[kMaxHeadDim];
  for (int h = 0; h < r.heads + r.kv_heads; ++h, source += r.head_dim, out += r.head_dim) {
    take_head(source, r.head_dim, x);
    norm_head(h < r.heads ? r.q_norm : r.k_norm, r.norm_eps, r.head_dim, x);
    rotate_head(r, x);
    to_bf16(x, r.head_dim, out);
  }
  to_bf16(source, static_cast<std::int64_t>(r.kv_heads) * r.head_dim, out);
}

void append(const AppendRow& a) {
  const std::int64_t columns = static_cast<std::int64_t>(a.kv_heads) * a.head_dim;
  for (int h = 0; h < a.kv_heads; ++h) {
    const bf16* k = a.kv + static_cast<std::int64_t>(h) * a.head_dim;
    bf16* head = a.block + h * kv_head_elements(a.head_dim);
    store_k(a, k, head);
    store_v(a, k + columns, head);
  }
}

void rms_norm(const float* x, const float* weight, float eps, std::int64_t n, bf16* y) {
  const __m512 scale = _mm512_set1_ps(inverse_rms(x, n, eps));
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);
    store_bf16(y + i, mask, _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(mask, weight + i)));
  }
}

void silu_mul(const float* gate, const float* up, std::int64_t n, bf16* y) {
  const __m512 one = _mm512_set1_ps(1.0F);
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
    const __m512 u = _mm512_maskz_loadu_ps(mask, up + i);
    const __m512 silu =
        _mm512_div_ps(g, _mm512_add_ps(one, exact_exp(_mm512_sub_ps(_mm512_setzero_ps(), g))));
    store_bf16(y + i, mask, _mm512_mul_ps(silu, u));
  }
}

void add(const float* x, std::int64_t n, float* y) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y + i), _mm512_maskz_loadu_ps(mask, x + i));
    _mm512_mask_storeu_ps(y + i, mask, sum);
  }
}

// As the shard sums of gemm: parts wait on a stack and are added like carries of a binary counter. Four
// vectors at a time, so that the counting is a small part of the work.
void add_tree(const float* const* parts, int count, std::int64_t n, float* y) {
  constexpr int kVectors = 4;
  __m512 stack[8][kVectors];
  for (std::int64_t first = 0; first < n; first += 16 * kVectors) {
    __mmask16 mask[kVectors];
    for (int j = 0; j < kVectors; ++j) {
      const std::int64_t left = n - first - 16 * j;
      mask[j] = left <= 0 ? __mmask16{0} : tail_mask(left);
    }
    const auto pop = [&](int depth) {  // the top onto the one below
      for (int j = 0; j < kVectors; ++j)
        stack[depth - 2][j] = _mm512_add_ps(stack[depth - 2][j], stack[depth - 1][j]);
      return depth - 1;
    };
    int depth = 0;
    for (int s = 0; s < count; ++s) {
      for (int j = 0; j < kVectors; ++j)
        stack[depth][j] = _mm512_maskz_loadu_ps(mask[j], parts[s] + first + 16 * j);
      ++depth;
      for (int carry = s; (carry & 1) != 0; carry >>= 1) depth = pop(depth);
    }
    while (depth > 1) depth = pop(depth);
    for (int j = 0; j < kVectors; ++j) {
      float* to = y + first + 16 * j;
      _mm512_mask_storeu_ps(to, mask[j], _mm512_add_ps(_mm512_maskz_loadu_ps(mask[j], to), stack[0][j]));
    }
  }
}

void to_bf16(const float* x, std::int64_t n, bf16* y) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    store_bf16(y + i, mask, _mm512_maskz_loadu_ps(mask, x + i));
  }
}

namespace {

// Logits stream from memory or a far cache once; the hardware prefetcher alone leaves half of the bandwidth
// unused.
void fetch_ahead(const float* x) {
  prefetch(x + 512);
}

}  // namespace

// Each lane keeps the first of its largest values; the lowest index among the lanes that hold the maximum
// wins.
void argmax(const float* x, std::int64_t n, std::int32_t* id, float* value) {
  const float lowest = -__builtin_inff();
  __m512 best = _mm512_set1_ps(lowest);
  __m512i where = _mm512_set1_epi32(0x7fffffff);
  __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (std::int64_t i = 0; i < n; i += 16) {
    fetch_ahead(x + i);
    const __m512 v = _mm512_mask_loadu_ps(_mm512_set1_ps(lowest), tail_mask(n - i), x + i);
    const __mmask16 better = _mm512_cmp_ps_mask(v, best, _CMP_GT_OQ);
    best = _mm512_mask_mov_ps(best, better, v);
    where = _mm512_mask_mov_epi32(where, better, index);
    index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
  }
  const __m512 maximum = _mm512_set1_ps(lane_max(best));
  const __mmask16 holders = _mm512_cmp_ps_mask(best, maximum, _CMP_EQ_OQ);
  const int first = _mm512_mask_reduce_min_epi32(holders, where);
  *id = first == 0x7fffffff ? 0 : first;  // nothing above -inf
  *value = first == 0x7fffffff ? lowest : x[first];
}

float sum_exp(const float* x, std::int64_t n, float maximum) {
  __m512 sum = _mm512_setzero_ps();
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    fetch_ahead(x + i);
    const __m512 e = exact_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(maximum)));
    sum = _mm512_mask_add_ps(sum, mask, sum, e);
  }
  return lane_sum(sum);
}

std::int64_t collect(const float* x, std::int64_t n, float threshold, std::int32_t* indices) {
  std::int64_t count = 0;
  __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    fetch_ahead(x + i);
    const __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
    const __mmask16 pass = _mm512_mask_cmp_ps_mask(mask, v, _mm512_set1_ps(threshold), _CMP_NLT_UQ);
    if (pass != 0) {
      // Compressing in a register and storing all lanes: the masked compressing store is microcode on Zen 4.
      _mm512_storeu_si512(indices + count, _mm512_maskz_compress_epi32(pass, index));
      count += __builtin_popcount(pass);
    }
    index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
  }
  return count;
}

std::uint64_t read(const void* data, std::int64_t bytes) {
  const char* p = static_cast<const char*>(data);
  __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                    _mm512_setzero_si512()};
  for (std::int64_t i = 0; i + 256 <= bytes; i += 256) {
    for (int j = 0; j < 4; ++j) sum[j] = _mm512_add_epi64(sum[j], _mm512_loadu_si512(p + i + 64 * j));
  }
  alignas(64) std::uint64_t lanes[8];
  _mm512_store_si512(lanes,
                     _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3])));
  std::uint64_t total = 0;
  for (const std::uint64_t lane : lanes) total += lane;
  return total;
}

}  // namespace nightshift::kernels::avx512
