// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "kernels/support.h"

namespace nightshift::kernels::test {
namespace {

class Rows : public EveryKernelSet {};
INSTANTIATE_TEST_SUITE_P(Sets, Rows, ::testing::ValuesIn(available_kernel_sets()),
                         [](const auto& set) { return set.param; });

constexpr std::array kWidths{1, 2, 15, 16, 17, 63, 64, 100, 896, 4096};

TEST_P(Rows, RmsNormAgreesWithDoubles) {
  for (const int n : kWidths) {
    const auto x = random_floats(5, n, 1, 3.0F);
    const auto weight = random_floats(1, n, 2);
    Host<bf16> y(5, n, kPoison);
    backend_->rms_norm(x.view(), weight.data.data(), 1e-5F, y.view());
    std::vector<double> expected;
    for (int m = 0; m < 5; ++m) {
      double squares = 0.0;
      for (int i = 0; i < n; ++i) squares += static_cast<double>(x(m, i)) * x(m, i);
      for (int i = 0; i < n; ++i)
        expected.push_back(x(m, i) / std::sqrt(squares / n + 1e-5) * weight.data[i]);
    }
    EXPECT_LT(relative_error(y.data, expected), 2 * kBf16Rounding) << n << " columns";
  }
}

TEST_P(Rows, RmsNormRowsDoNotDependOnTheirCompany) {
  const auto x = random_floats(100, 896, 3);
  const auto weight = random_floats(1, 896, 4);
  Host<bf16> together(100, 896, kPoison);
  backend_->rms_norm(x.view(), weight.data.data(), 1e-6F, together.view());
  for (int m = 0; m < 100; ++m) {
    Host<bf16> alone(1, 896, kPoison);
    backend_->rms_norm(x.row(m), weight.data.data(), 1e-6F, alone.view());
    ASSERT_TRUE(same_bits(alone.data.data(), &together(m, 0), 896)) << "row " << m;
  }
}

TEST_P(Rows, SiluMulAgreesWithDoublesOverTheWholeRange) {
  for (const int n : kWidths) {
    auto gate = random_floats(3, n, 5, 4.0F);
    gate(0, 0) = -200.0F;  // exp(200) is infinite: the result must be 0, not NaN
    gate(1, 0) = 200.0F;
    const auto up = random_floats(3, n, 6);
    Host<bf16> y(3, n, kPoison);
    backend_->silu_mul(gate.view(), up.view(), y.view());
    std::vector<double> expected;
    for (std::size_t i = 0; i < gate.data.size(); ++i) {
      expected.push_back(gate.data[i] / (1.0 + std::exp(-static_cast<double>(gate.data[i]))) * up.data[i]);
    }
    EXPECT_LT(relative_error(y.data, expected), 2 * kBf16Rounding) << n << " columns";
  }
}

TEST_P(Rows, ConversionRoundsToNearestEven) {
  auto x = random_floats(2, 333, 7);
  x(0, 0) = 1.00390625F;  // halfway between 1 and 1.0078125: to even, 1
  x(0, 1) = 1.01171875F;  // halfway between 1.0078125 and 1.015625: to even, 1.015625
  x(0, 2) = std::numeric_limits<float>::infinity();
  x(0, 3) = -0.0F;
  Host<bf16> y(2, 333, kPoison);
  backend_->to_bf16(x.view(), y.view());
  for (std::size_t i = 0; i < x.data.size(); ++i)
    EXPECT_EQ(y.data[i].bits, bf16(x.data[i]).bits) << x.data[i];
}

TEST_P(Rows, AddIsExact) {
  const auto x = random_floats(7, 101, 8);
  auto y = random_floats(7, 101, 9);
  const auto before = y;
  backend_->add(x.view(), y.view());
  for (std::size_t i = 0; i < y.data.size(); ++i) EXPECT_EQ(y.data[i], before.data[i] + x.data[i]);
}

TEST_P(Rows, OneRowIsAddedOntoAllWithStrideZero) {
  const auto x = random_floats(1, 77, 15);
  auto y = random_floats(6, 77, 16);
  const auto before = y;
  backend_->add({x.data.data(), 6, 77, 0}, y.view());
  for (int r = 0; r < 6; ++r) {
    for (int c = 0; c < 77; ++c) EXPECT_EQ(y(r, c), before(r, c) + x.data[c]);
  }
}

TEST_P(Rows, ReadNothingBehindTheirInputs) {
  for (const int n : kWidths) {
    const Guarded<float> x(random_floats(3, n, 17).data);
    const Guarded<float> weight(random_floats(1, n, 18).data);
    const Guarded<float> sum(random_floats(3, n, 19).data);
    const Guarded<bf16> y(std::vector<bf16>(3 * n));
    backend_->rms_norm({x.data(), 3, n}, weight.data(), 1e-6F, {y.data(), 3, n});
    backend_->silu_mul({x.data(), 3, n}, {sum.data(), 3, n}, {y.data(), 3, n});
    backend_->to_bf16({x.data(), 3, n}, {y.data(), 3, n});
    backend_->add({x.data(), 3, n}, {sum.data(), 3, n});
    const std::array<std::int64_t, 2> bounds{0, n};
    std::array<TokenId, 3> ids{};
    std::array<float, 3> maxima{};
    Host<float> sums(3, 1, kNaN);
    backend_->argmax({x.data(), 3, n}, ids.data(), maxima.data());
    backend_->sum_exp({x.data(), 3, n}, maxima.data(), bounds, sums.view());
    Host<TokenId> best(3, 1);
    backend_->top_k({x.data(), 3, n}, 1, best.view(), sums.view());
    EXPECT_EQ(std::vector<TokenId>(ids.begin(), ids.end()), best.data) << n << " columns";
  }
}

TEST_P(Rows, EmbedTakesRowsAndZeroesForeignIds) {
  const auto table = random_bf16(100, 48, 10);
  const PackedMatrix w = packed(*backend_, table);
  const std::array<TokenId, 6> ids{1000, 1099, 999, 1100, 0, 1042};
  Host<float> plain(6, 48, kNaN);
  Host<float> tied(6, 48, kNaN);
  backend_->embed(table.view(), ids.data(), plain.view(), 1000, 2.0F);
  backend_->embed(w, ids.data(), tied.view(), 1000, 2.0F);
  for (int r = 0; r < 6; ++r) {
    for (int c = 0; c < 48; ++c) {
      const int id = ids[r] - 1000;
      EXPECT_EQ(plain(r, c), id >= 0 && id < 100 ? 2.0F * static_cast<float>(table(id, c)) : 0.0F);
    }
  }
  EXPECT_TRUE(same_bits(plain.data, tied.data));
}

TEST_P(Rows, GatherTakesRowsInOrder) {
  const auto x = random_floats(9, 20, 11);
  const std::array<std::int32_t, 3> rows{8, 0, 8};
  Host<float> y(3, 20, kNaN);
  backend_->gather_rows(x.view(), rows.data(), y.view());
  for (int r = 0; r < 3; ++r) EXPECT_TRUE(same_bits(&y(r, 0), &x(rows[r], 0), 20));
  const std::array<std::int32_t, 3> wrong{0, 9, 1};
  EXPECT_THROW(backend_->gather_rows(x.view(), wrong.data(), y.view()), Error);
}

struct RopeCase {
  AttentionShape shape;
  int rotary_dim;
  bool norm;
  int groups;
};

// What q, K and V of one token must be, by formula.
std::vector<double> rotated_head(const float* x, const RopeCase& c, const Rope& rope, int position,
                                 const float* weight) {
  const int head_dim = c.shape.head_dim;
  std::vector<double> y(x, x + head_dim);
  if (weight != nullptr) {
    double squares = 0.0;
    for (const double v : y) squares += v * v;
    for (int d = 0; d < head_dim; ++d) y[d] = y[d] / std::sqrt(squares / head_dim + 1e-6) * weight[d];
  }
  const int half = c.rotary_dim / 2;
  for (int d = 0; d < half; ++d) {
    const double a = y[d];
    const double b = y[d + half];
    y[d] = a * rope.cos.row(position)[d] - b * rope.sin.row(position)[d];
    y[d + half] = b * rope.cos.row(position)[d] + a * rope.sin.row(position)[d];
  }
  return y;
}

// K and V as the documented layout places them.
float k_at(const bf16* head, int slot, int d) {
  return static_cast<float>(head[d / 2 * 32 + slot * 2 + d % 2]);
}
float v_at(const bf16* head, int slot, int d, int head_dim) {
  const int padded = (head_dim + 15) / 16 * 16;
  return static_cast<float>(head[16 * head_dim + slot / 2 * 2 * padded + 2 * d + slot % 2]);
}

void check_rope(Backend& backend, const RopeCase& c) {
  const AttentionShape& s = c.shape;
  const int tokens = 21;
  const int start = 9;
  Host<float> cos(40, c.rotary_dim / 2);
  Host<float> sin(40, c.rotary_dim / 2);
  for (int p = 0; p < 40; ++p) {
    for (int i = 0; i < c.rotary_dim / 2; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / c.rotary_dim);
      cos(p, i) = static_cast<float>(std::cos(angle));
      sin(p, i) = static_cast<float>(std::sin(angle));
    }
  }
  const Rope rope{cos.view(), sin.view()};
  const auto q_weight = random_floats(1, s.head_dim, 12);
  const auto k_weight = random_floats(1, s.head_dim, 13);
  const HeadNorm norm{c.norm ? q_weight.data.data() : nullptr, c.norm ? k_weight.data.data() : nullptr,
                      1e-6F};
  const auto qkv = random_floats(tokens, (s.heads + 2 * s.kv_heads) * s.head_dim, 14);
  const std::vector<BlockId> blocks{3, 1};
  const auto batch = backend.prepare(std::array{SequenceSlice{0, tokens, start, blocks}});
  KvCache cache = backend.make_kv_cache({2, s.kv_heads, s.head_dim, 4});
  Host<bf16> q(tokens, s.heads * s.head_dim, kPoison);
  backend.rope_append(qkv.view(), {s, c.groups}, *batch, rope, norm, q.view(), cache, 1);
  std::vector<double> expected;
  std::vector<float> got;
  for (int t = 0; t < tokens; ++t) {
    const int position = start + t;
    const int slot = position % kKvBlockTokens;
    const float* source = &qkv(t, 0);
    for (int group = 0; group < c.groups; ++group) {
      for (int h = group * s.heads / c.groups; h < (group + 1) * s.heads / c.groups;
           ++h, source += s.head_dim) {
        const auto y = rotated_head(source, c, rope, position, norm.q);
        expected.insert(expected.end(), y.begin(), y.end());
        for (int d = 0; d < s.head_dim; ++d) got.push_back(static_cast<float>(q(t, h * s.head_dim + d)));
      }
      for (const bool is_v : {false, true}) {
        for (int h = group * s.kv_heads / c.groups; h < (group + 1) * s.kv_heads / c.groups;
             ++h, source += s.head_dim) {
          const bf16* head = cache.head(1, blocks[position / kKvBlockTokens], h);
          const auto y = is_v ? std::vector<double>(source, source + s.head_dim)
                              : rotated_head(source, c, rope, position, norm.k);
          expected.insert(expected.end(), y.begin(), y.end());
          for (int d = 0; d < s.head_dim; ++d)
            got.push_back(is_v ? v_at(head, slot, d, s.head_dim) : k_at(head, slot, d));
        }
      }
    }
  }
  EXPECT_LT(relative_error(got, expected), 1.5 * kBf16Rounding)
      << s.heads << "/" << s.kv_heads << " x " << s.head_dim << ", rotary " << c.rotary_dim << ", norm "
      << c.norm << ", groups " << c.groups;
}

TEST_P(Rows, RopeNormAndAppendFollowTheFormula) {
  for (const int head_dim : {8, 32, 64, 80, 96, 128, 256}) {
    check_rope(*backend_, {{4, 2, head_dim}, head_dim, false, 1});
    check_rope(*backend_, {{4, 2, head_dim}, head_dim, true, 2});
    check_rope(*backend_, {{3, 3, head_dim}, head_dim / 2, false, 3});  // partial rotation
  }
  check_rope(*backend_, {{14, 2, 64}, 64, false, 2});
}

}  // namespace
}  // namespace nightshift::kernels::test
