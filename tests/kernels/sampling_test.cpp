// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/support.h"

namespace nightshift::kernels::test {
namespace {

class Sampling : public EveryKernelSet {};
INSTANTIATE_TEST_SUITE_P(Sets, Sampling, ::testing::ValuesIn(available_kernel_sets()),
                         [](const auto& set) { return set.param; });

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// x - maximum is rounded at magnitude 20 (1e-6 in the exponential), and each lane adds up to 1,000 terms of
// one sign.
constexpr double kSumTolerance = 4e-6;

// Logits with many ties, as bf16 weights produce.
Host<float> logits(int rows, int cols, unsigned seed) {
  auto x = random_floats(rows, cols, seed, 4.0F);
  for (float& v : x.data) v = std::round(v * 8.0F) / 8.0F;
  return x;
}

TEST_P(Sampling, ArgmaxTakesTheLowestIdOnTies) {
  for (const int cols : {1, 2, 15, 16, 17, 31, 100, 1000, 5003}) {
    auto x = logits(4, cols, static_cast<unsigned>(cols));
    std::fill_n(&x(1, 0), cols, -kInfinity);
    std::fill_n(&x(2, 0), cols, 2.5F);
    if (cols > 20) x(3, 7) = x(3, 19) = kNaN;  // never the largest
    Vector<TokenId> ids(4, -1);
    Vector<float> values(4, kNaN);
    backend_->argmax(x.view(), ids.data(), values.data());
    for (int r = 0; r < 4; ++r) {
      int best = 0;
      for (int c = 1; c < cols; ++c) best = x(r, c) > x(r, best) ? c : best;
      EXPECT_EQ(ids[r], best) << cols << " columns, row " << r;
      EXPECT_EQ(values[r], x(r, best)) << cols << " columns, row " << r;
    }
  }
}

TEST_P(Sampling, SumExpAgreesWithDoublesInShards) {
  for (const int cols : {1, 16, 100, 4096, 32001}) {
    auto x = logits(3, cols, static_cast<unsigned>(cols + 1));
    if (cols > 3) x(1, 3) = -kInfinity;
    const std::array<std::int64_t, 4> bounds{0, cols / 3, cols / 2, cols};
    const Vector<float> maxima{5.0F, 6.0F, 7.0F};
    Host<float> sums(3, 3, kNaN);
    backend_->sum_exp(x.view(), maxima.data(), bounds, sums.view());
    for (int r = 0; r < 3; ++r) {
      for (int s = 0; s < 3; ++s) {
        double sum = 0.0;
        for (std::int64_t c = bounds[s]; c < bounds[s + 1]; ++c)
          sum += std::exp(static_cast<double>(x(r, c)) - maxima[r]);
        EXPECT_NEAR(sums(r, s), sum, kSumTolerance * sum) << cols << " columns, shard " << s;
      }
    }
  }
}

TEST_P(Sampling, TopKIsTheSortedPrefix) {
  for (const int cols : {1, 3, 64, 1000, 32001}) {
    auto x = logits(3, cols, static_cast<unsigned>(cols + 2));
    std::sort(&x(1, 0), &x(1, 0) + cols);  // worst case: every element raises the bar
    std::sort(&x(2, 0), &x(2, 0) + cols, std::greater<>());
    for (const int k : {1, 2, 7, 64, 1024, cols}) {
      if (k > cols || (slow() && static_cast<std::int64_t>(k) * cols > 100'000)) continue;
      Host<TokenId> ids(3, k, -1);
      Host<float> values(3, k, kNaN);
      backend_->top_k(x.view(), k, ids.view(), values.view());
      for (int r = 0; r < 3; ++r) {
        std::vector<TokenId> order(cols);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x(r, a) > x(r, b); });
        for (int i = 0; i < k; ++i) {
          ASSERT_EQ(ids(r, i), order[i]) << "k " << k << " of " << cols << ", row " << r << ", place " << i;
          ASSERT_EQ(values(r, i), x(r, order[i]));
        }
      }
    }
  }
}

TEST_P(Sampling, TopKRanksNaNLast) {
  Host<float> x(1, 5);
  x.data = {kNaN, 1.0F, -kInfinity, kNaN, 2.0F};
  Host<TokenId> ids(1, 5);
  Host<float> values(1, 5);
  backend_->top_k(x.view(), 5, ids.view(), values.view());
  EXPECT_EQ(ids.data, (Vector<TokenId>{4, 1, 2, 0, 3}));
}

// Choices are the same everywhere; sums have one order of additions on CPUs and another on GPUs.
TEST_P(Sampling, EverySetChoosesAsPortableDoes) {
  const Waiting portable = make("portable", 2);
  const auto x = random_floats(6, 50021, 60, 6.0F);
  const std::array<std::int64_t, 3> bounds{0, 20001, 50021};
  const int k = slow() ? 20 : 100;
  struct Found {
    Vector<TokenId> ids = Vector<TokenId>(6, -1);
    Vector<float> maxima = Vector<float>(6, kNaN);
    Host<float> sums{6, 2, kNaN};
    Host<TokenId> best;
    Host<float> values;
  };
  const auto find = [&](const Waiting& backend) {
    Found found;
    found.best = {6, k, -1};
    found.values = {6, k, kNaN};
    backend->argmax(x.view(), found.ids.data(), found.maxima.data());
    backend->sum_exp(x.view(), found.maxima.data(), bounds, found.sums.view());
    backend->top_k(x.view(), k, found.best.view(), found.values.view());
    return found;
  };
  const Found expected = find(portable);
  const Found found = find(backend_);
  EXPECT_EQ(found.ids, expected.ids);
  EXPECT_EQ(found.maxima, expected.maxima);
  EXPECT_EQ(found.best.data, expected.best.data);
  EXPECT_TRUE(same_bits(found.values.data, expected.values.data));
  if (on_gpu()) {
    EXPECT_LT(relative_error(found.sums.data, expected.sums.data), kSumTolerance);
  } else {
    EXPECT_TRUE(same_bits(found.sums.data, expected.sums.data));
  }
}

}  // namespace
}  // namespace nightshift::kernels::test
