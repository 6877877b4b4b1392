// SPDX-License-Identifier: Apache-2.0
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

void store_k(const RopeRow& r, const float* x, bf16* head) {
  for (int d = 0; d < r.head_dim; ++d) {
    head[static_cast<std::int64_t>(d / 2) * 2 * kKvBlockTokens + r.slot * 2 + d % 2] = bf16(x[d]);
  }
}

void store_v(const RopeRow& r, const float* x, bf16* head) {
  const int padded = padded_head_dim(r.head_dim);
  bf16* pair = head + v_offset(r.head_dim) + static_cast<std::int64_t>(r.slot / 2) * 2 * padded + r.slot % 2;
  for (int d = 0; d < padded; ++d) pair[2 * d] = d < r.head_dim ? bf16(x[d]) : bf16(0.0F);
}

}  // namespace

void rope_append(const RopeRow& r) {
  const int q_heads = r.heads / r.groups;
  const int kv_heads = r.kv_heads / r.groups;
  const float* source = r.qkv;
  std::array<float, kMaxHeadDim> x{};
  const auto next_head = [&] {
    std::memcpy(x.data(), source, sizeof(float) * r.head_dim);
    source += r.head_dim;
  };
  for (int group = 0; group < r.groups; ++group) {
    for (int h = group * q_heads; h < (group + 1) * q_heads; ++h) {
      next_head();
      norm_head(r.q_norm, r.norm_eps, r.head_dim, x.data());
      rotate_head(r, x.data());
      to_bf16(x.data(), r.head_dim, r.q + static_cast<std::int64_t>(h) * r.head_dim);
    }
    for (int h = group * kv_heads; h < (group + 1) * kv_heads; ++h) {
      next_head();
      norm_head(r.k_norm, r.norm_eps, r.head_dim, x.data());
      rotate_head(r, x.data());
      store_k(r, x.data(), r.kv + h * kv_head_elements(r.head_dim));
    }
    for (int h = group * kv_heads; h < (group + 1) * kv_heads; ++h) {
      next_head();
      store_v(r, x.data(), r.kv + h * kv_head_elements(r.head_dim));
    }
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
