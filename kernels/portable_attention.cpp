// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "kernels/exp.h"
#include "kernels/portable.h"

namespace nightshift::kernels::portable {
namespace {

constexpr int kTile = kKvBlockTokens;  // keys merged at a time: one block, so tiles lie at absolute positions

float low(std::uint32_t pair) {
  return std::bit_cast<float>(pair << 16);
}
float high(std::uint32_t pair) {
  return std::bit_cast<float>(pair & 0xffff0000U);
}

// One query head's running softmax over the tiles seen so far.
struct Running {
  float maximum = -std::numeric_limits<float>::infinity();
  float total = 0.0F;
  float sum[kMaxHeadDim];  // of exp(score - maximum) * V
};

// scores[t] = q . K[t] for the sixteen tokens of a block, one chain over dimensions each.
void dot_block(const bf16* q, const bf16* k, int head_dim, float* scores) {
  std::fill_n(scores, kTile, 0.0F);
  for (int d = 0; d < head_dim; d += 2, k += 2 * kTile) {
    std::uint32_t pair[kTile];
    std::memcpy(pair, k, sizeof pair);
    const float q0 = static_cast<float>(q[d]);
    const float q1 = static_cast<float>(q[d + 1]);
    for (int t = 0; t < kTile; ++t) scores[t] += q0 * low(pair[t]);
    for (int t = 0; t < kTile; ++t) scores[t] += q1 * high(pair[t]);
  }
}

void add_value(const bf16* v, int token, float weight, int head_dim, int padded, float* sum) {
  const bf16* pair = v + static_cast<std::int64_t>(token / 2) * 2 * padded + token % 2;
  for (int d = 0; d < head_dim; ++d) sum[d] += weight * static_cast<float>(pair[2 * d]);
}

// Merges tokens [first, last) of the block; nothing outside that range is looked at.
void merge_block(const AttentionBlock& b, const bf16* q, const bf16* block, int first, int last,
                 Running& run) {
  float scores[kTile];
  dot_block(q, block, b.head_dim, scores);
  float maximum = run.maximum;
  for (int t = first; t < last; ++t) {
    scores[t] *= b.scale;
    maximum = std::max(maximum, scores[t]);
  }
  const float keep = fixed_exp(run.maximum - maximum);
  run.maximum = maximum;
  run.total *= keep;
  for (int d = 0; d < b.head_dim; ++d) run.sum[d] *= keep;
  for (int t = first; t < last; ++t) {
    const float weight = fixed_exp(scores[t] - maximum);
    run.total += weight;
    add_value(block + v_offset(b.head_dim), t, weight, b.head_dim, padded_head_dim(b.head_dim), run.sum);
  }
}

}  // namespace

void attention(const AttentionBlock& b) {
  for (int t = 0; t < b.tokens; ++t) {
    const int position = b.start + t;
    const int begin = b.window > 0 ? std::max(0, position - b.window + 1) : 0;
    for (int g = 0; g < b.group; ++g) {
      const std::int64_t head = static_cast<std::int64_t>(g) * b.head_dim;
      Running run;
      std::fill_n(run.sum, b.head_dim, 0.0F);
      for (int tile = begin / kTile; tile <= position / kTile; ++tile) {
        const int first = std::max(begin - tile * kTile, 0);
        const int last = std::min(position + 1 - tile * kTile, kTile);
        merge_block(b, b.q + t * b.q_stride + head, b.kv + b.blocks[tile] * b.block_stride, first, last, run);
      }
      for (int d = 0; d < b.head_dim; ++d) run.sum[d] /= run.total;
      to_bf16(run.sum, b.head_dim, b.out + t * b.out_stride + head);
    }
  }
}

}  // namespace nightshift::kernels::portable

namespace nightshift::kernels {

const CpuKernels& portable_kernels() {
  static constexpr CpuKernels kernels{
      "portable",        portable::gemm,      portable::pack,     portable::rope,
      portable::append,  portable::attention, portable::rms_norm, portable::silu_mul,
      portable::add,     portable::add_tree,  portable::to_bf16,  portable::argmax,
      portable::sum_exp, portable::collect,   portable::multiply, portable::read};
  return kernels;
}

}  // namespace nightshift::kernels
