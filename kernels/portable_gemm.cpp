// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/exp.h"
#include "kernels/portable.h"

namespace nightshift::kernels::portable {
namespace {

constexpr int kLanes = 16;  // columns that one pass accumulates in registers; a panel is four passes

float low(std::uint32_t pair) {
  return std::bit_cast<float>(pair << 16);
}
float high(std::uint32_t pair) {
  return std::bit_cast<float>(pair & 0xffff0000U);
}

// acc[first + j] = chain over k in [begin, end) of x[k] * w[k][first + j]. One row at a time: loops over
// several rows tempt GCC 12 into gathers that are slower, and into loads of rows that do not exist.
void chain(const bf16* x, const bf16* panel, std::int64_t begin, std::int64_t end, int first, float* acc) {
  float sum[kLanes] = {};
  for (std::int64_t k = begin; k < end; k += 2) {
    std::uint32_t pair;
    std::uint32_t w[kLanes];
    std::memcpy(&pair, x + k, sizeof pair);
    std::memcpy(w, panel + k * kPanel + 2 * first, sizeof w);
    for (int j = 0; j < kLanes; ++j) sum[j] += low(pair) * low(w[j]);
    for (int j = 0; j < kLanes; ++j) sum[j] += high(pair) * high(w[j]);
  }
  std::memcpy(acc + first, sum, sizeof sum);
}

void store(const GemmBlock& b, int row, float* acc) {
  const std::int64_t at = row * b.y_stride;
  if (b.store == Store::silu_mul) {
    if (b.bias != nullptr) add(b.bias, kPanel, acc);
    return silu_mul(acc, acc + kPanel / 2, b.cols, b.y16 + at);
  }
  if (b.store == Store::add) return add(acc, b.cols, b.y + at);
  for (int j = 0; j < b.cols; ++j) b.y[at + j] = b.bias != nullptr ? acc[j] + b.bias[j] : acc[j];
}

}  // namespace

// Shard sums wait on a stack and are added like carries of a binary counter; what is left at the end is added
// from the top down. That is tree_sum's order, with as many rows as the tree is deep.
void gemm(const GemmBlock& b) {
  float stack[8][kPanel];
  for (int row = 0; row < b.rows; ++row) {
    int depth = 0;
    for (int s = 0; s < b.shards; ++s, ++depth) {
      for (int first = 0; first < kPanel; first += kLanes) {
        chain(b.x + row * b.x_stride, b.panel, b.bounds[s], b.bounds[s + 1], first, stack[depth]);
      }
      for (int carry = s; (carry & 1) != 0; carry >>= 1, --depth) add(stack[depth], kPanel, stack[depth - 1]);
    }
    for (; depth > 1; --depth) add(stack[depth - 1], kPanel, stack[depth - 2]);
    store(b, row, stack[0]);
  }
}

double multiply(std::int64_t iterations) {
  constexpr std::int64_t kDepth = 64;
  bf16 x[kDepth];
  bf16 panel[kPanel * kDepth];
  std::fill(std::begin(x), std::end(x), bf16(1.0F));
  std::fill(std::begin(panel), std::end(panel), bf16(1.0F));
  float acc[kPanel] = {};
  const std::int64_t chains = std::max<std::int64_t>(1, iterations / kDepth);
  bool right = true;
  for (std::int64_t i = 0; i < chains; ++i) {
    x[0] = bf16(static_cast<float>(i % 2));  // a result that changes cannot be computed once for all
    for (int first = 0; first < kPanel; first += kLanes) chain(x, panel, 0, kDepth, first, acc);
    right = right && acc[kPanel - 1] == static_cast<float>(kDepth - 1 + i % 2);
  }
  return right ? static_cast<double>(chains * kPanel * kDepth * 2) : 0.0;
}

}  // namespace nightshift::kernels::portable
