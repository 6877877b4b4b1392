// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/exp.h"
#include "kernels/portable.h"

namespace nightshift::kernels::portable {
namespace {

constexpr int kLanes = 16;

// The fixed tree over sixteen lane sums: halves onto halves.
float lane_sum(std::array<float, kLanes> lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

float inverse_rms(const float* x, std::int64_t n, float eps) {
  std::array<float, kLanes> lanes{};
  for (std::int64_t i = 0; i < n; ++i) lanes[i % kLanes] += x[i] * x[i];
  return 1.0F / std::sqrt(lane_sum(lanes) / static_cast<float>(n) + eps);
}

void norm_head(const float* weight, float eps, int n, float* x) {
  if (weight == nullptr) return;
  const float scale = inverse_rms(x, n, eps);
  for (int i = 0; i < n; ++i) x[i] = x[i] * scale * weight[i];
}

void rotate_head(const RopeRow& r, float* x) {
  if (r.cos == nullptr) return;
  const int half = r.rotary_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * r.cos[i] - b * r.sin[i];
    x[i + half] = b * r.cos[i] + a * r.sin[i];
  }
}

void store_k(const AppendRow& a, const bf16* k, bf16* head) {
  for (int d = 0; d < a.head_dim; ++d) {
    head[static_cast<std::int64_t>(d / 2) * 2 * kKvBlockTokens + a.slot * 2 + d % 2] = k[d];
  }
}

void store_v(const AppendRow& a, const bf16* v, bf16* head) {
  const int padded = padded_head_dim(a.head_dim);
  bf16* pair = head + v_offset(a.head_dim) + static_cast<std::int64_t>(a.slot / 2) * 2 * padded + a.slot % 2;
  for (int d = 0; d < padded; ++d) pair[2 * d] = d < a.head_dim ? v[d] : bf16(0.0F);
}

}  // namespace

void rope(const RopeRow& r) {
  const float* source = r.qkv;
  bf16* out = r.out;
  std::array<float, kMaxHeadDim> x{};
  for (int h = 0; h < r.heads + r.kv_heads; ++h, source += r.head_dim, out += r.head_dim) {
    std::memcpy(x.data(), source, sizeof(float) * r.head_dim);
    norm_head(h < r.heads ? r.q_norm : r.k_norm, r.norm_eps, r.head_dim, x.data());
    rotate_head(r, x.data());
    to_bf16(x.data(), r.head_dim, out);
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
  const float scale = inverse_rms(x, n, eps);
  for (std::int64_t i = 0; i < n; ++i) y[i] = bf16(x[i] * scale * weight[i]);
}

void silu_mul(const float* gate, const float* up, std::int64_t n, bf16* y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = bf16(gate[i] / (1.0F + fixed_exp(-gate[i])) * up[i]);
}

void add(const float* x, std::int64_t n, float* y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] += x[i];
}

// As the shard sums of gemm: parts wait on a stack and are added like carries of a binary counter.
void add_tree(const float* const* parts, int count, std::int64_t n, float* y) {
  constexpr std::int64_t kColumns = 64;
  float stack[8][kColumns];
  for (std::int64_t first = 0; first < n; first += kColumns) {
    const std::int64_t columns = std::min(kColumns, n - first);
    int depth = 0;
    for (int s = 0; s < count; ++s, ++depth) {
      std::memcpy(stack[depth], parts[s] + first, sizeof(float) * columns);
      for (int carry = s; (carry & 1) != 0; carry >>= 1, --depth)
        add(stack[depth], columns, stack[depth - 1]);
    }
    for (; depth > 1; --depth) add(stack[depth - 1], columns, stack[depth - 2]);
    add(stack[0], columns, y + first);
  }
}

void to_bf16(const float* x, std::int64_t n, bf16* y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = bf16(x[i]);
}

void argmax(const float* x, std::int64_t n, std::int32_t* id, float* value) {
  *id = 0;
  *value = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < n; ++i) {
    if (x[i] > *value) {
      *id = static_cast<std::int32_t>(i);
      *value = x[i];
    }
  }
}

float sum_exp(const float* x, std::int64_t n, float maximum) {
  std::array<float, kLanes> lanes{};
  for (std::int64_t i = 0; i < n; ++i) lanes[i % kLanes] += fixed_exp(x[i] - maximum);
  return lane_sum(lanes);
}

std::int64_t collect(const float* x, std::int64_t n, float threshold, std::int32_t* indices) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (!(x[i] < threshold)) indices[count++] = static_cast<std::int32_t>(i);
  }
  return count;
}

std::uint64_t read(const void* data, std::int64_t bytes) {
  const auto* words = static_cast<const std::uint64_t*>(data);
  std::array<std::uint64_t, 8> sums{};
  for (std::int64_t i = 0; i + 8 <= bytes / 8; i += 8) {
    for (int lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace nightshift::kernels::portable
