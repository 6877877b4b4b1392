// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/exp.h"
#include "kernels/portable.h"

namespace nightshift::kernels::portable {
namespace {

constexpr int kLanes = 16;  // columns that one pass accumulates; a panel is four passes
constexpr int kRows = 2;    // rows that share the decoding of weights

float low(std::uint32_t pair) {
  return std::bit_cast<float>(pair << 16);
}
float high(std::uint32_t pair) {
  return std::bit_cast<float>(pair & 0xffff0000U);
}

// acc[r][j] = chain over k in [begin, end) of x[r][k] * w[k][first + j].
template <int R>
void chain(const bf16* x, std::int64_t x_stride, const bf16* panel, std::int64_t begin, std::int64_t end,
           int first, float (*acc)[kPanel]) {
  float sum[R][kLanes] = {};
  for (std::int64_t k = begin; k < end; k += 2) {
    std::uint32_t w[kLanes];
    std::memcpy(w, panel + k * kPanel + 2 * first, sizeof w);
    for (int r = 0; r < R; ++r) {
      std::uint32_t pair;  // one load: from two, GCC 12 makes a vector load of rows that do not exist
      std::memcpy(&pair, x + r * x_stride + k, sizeof pair);
      for (int j = 0; j < kLanes; ++j) sum[r][j] += low(pair) * low(w[j]);
      for (int j = 0; j < kLanes; ++j) sum[r][j] += high(pair) * high(w[j]);
    }
  }
  for (int r = 0; r < R; ++r) std::memcpy(acc[r] + first, sum[r], sizeof sum[r]);
}

void shard(const GemmBlock& b, int row, int rows, int s, float (*acc)[kPanel]) {
  const bf16* x = b.x + row * b.x_stride;
  for (int first = 0; first < kPanel; first += kLanes) {
    if (rows == kRows) {
      chain<kRows>(x, b.x_stride, b.panel, b.bounds[s], b.bounds[s + 1], first, acc);
    } else {
      chain<1>(x, b.x_stride, b.panel, b.bounds[s], b.bounds[s + 1], first, acc);
    }
  }
}

void add_into(float (*a)[kPanel], float (*b)[kPanel]) {
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kPanel; ++j) a[r][j] += b[r][j];
  }
}

void store(const GemmBlock& b, int row, int rows, float (*acc)[kPanel]) {
  for (int r = 0; r < rows; ++r) {
    const std::int64_t at = (row + r) * b.y_stride;
    for (int j = 0; j < b.cols; ++j) {
      if (b.store == Store::assign) b.y[at + j] = b.bias != nullptr ? acc[r][j] + b.bias[j] : acc[r][j];
      if (b.store == Store::add) b.y[at + j] += acc[r][j];
    }
    if (b.store == Store::silu_mul) silu_mul(acc[r], acc[r] + kPanel / 2, b.cols, b.y16 + at);
  }
}

}  // namespace

// Shard sums wait on a stack and are added like carries of a binary counter; what is left at the end is added
// from the top down. That is tree_sum's order, with as many tiles as the tree is deep.
void gemm(const GemmBlock& b) {
  float stack[8][kRows][kPanel];
  for (int row = 0; row < b.rows; row += kRows) {
    const int rows = std::min(kRows, b.rows - row);
    int depth = 0;
    for (int s = 0; s < b.shards; ++s) {
      shard(b, row, rows, s, stack[depth++]);
      for (int carry = s; (carry & 1) != 0; carry >>= 1, --depth)
        add_into(stack[depth - 2], stack[depth - 1]);
    }
    for (; depth > 1; --depth) add_into(stack[depth - 2], stack[depth - 1]);
    store(b, row, rows, stack[0]);
  }
}

double multiply(std::int64_t iterations) {
  constexpr std::int64_t kDepth = 64;
  bf16 x[kRows * kDepth];
  bf16 panel[kPanel * kDepth];
  std::fill(std::begin(x), std::end(x), bf16(1.0F));
  std::fill(std::begin(panel), std::end(panel), bf16(1.0F));
  float acc[kRows][kPanel] = {};
  const std::int64_t chains = std::max<std::int64_t>(1, iterations / kDepth);
  bool right = true;
  for (std::int64_t i = 0; i < chains; ++i) {
    x[0] = bf16(static_cast<float>(i % 2));  // a result that changes cannot be computed once for all
    chain<kRows>(x, kDepth, panel, 0, kDepth, 0, acc);
    right = right && acc[0][0] == static_cast<float>(kDepth - 1 + i % 2);
  }
  return right ? static_cast<double>(chains * kRows * kLanes * kDepth * 2) : 0.0;
}

}  // namespace nightshift::kernels::portable
