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
    const Guarded<bf16> y(std::vector<bf16>(static_cast<std::size_t>(3 * n)));
    backend_->rms_norm({x.data(), 3, n}, weight.data(), 1e-6F, {y.data(), 3, n});
    backend_->silu_mul({x.data(), 3, n}, {sum.data(), 3, n}, {y.data(), 3, n});
    backend_->to_bf16({x.data(), 3, n}, {y.data(), 3, n});
    backend_->add({x.data(), 3, n}, {sum.data(), 3, n});
    const std::array<std::int64_t, 2> bounds{0, n};
    Host<TokenId> ids(3, 1, -1);
    Host<float> maxima(3, 1, kNaN);
    Host<float> sums(3, 1, kNaN);
    backend_->argmax({x.data(), 3, n}, ids.data.data(), maxima.data.data());
    backend_->sum_exp({x.data(), 3, n}, maxima.data.data(), bounds, sums.view());
    Host<TokenId> best(3, 1);
    backend_->top_k({x.data(), 3, n}, 1, best.view(), sums.view());
    EXPECT_EQ(ids.data, best.data) << n << " columns";
  }
}

TEST_P(Rows, EmbedTakesRowsAndLeavesForeignIdsToOthers) {
  const auto table = random_bf16(100, 48, 10);
  const PackedMatrix w = packed(backend_, table);
  const Vector<TokenId> ids{1000, 1099, 999, 1100, 0, 1042};
  Host<float> plain(6, 48, kNaN);
  Host<float> tied(6, 48, kNaN);
  backend_->embed(table.view(), ids.data(), plain.view(), 1000, 2.0F);
  backend_->embed(w, ids.data(), tied.view(), 1000, 2.0F);
  for (int r = 0; r < 6; ++r) {
    for (int c = 0; c < 48; ++c) {
      const int id = ids[r] - 1000;
      const float expected = id >= 0 && id < 100 ? 2.0F * static_cast<float>(table(id, c)) : -0.0F;
      EXPECT_TRUE(same_bits(&plain(r, c), &expected, 1)) << r << ", " << c;
    }
  }
  EXPECT_TRUE(same_bits(plain.data, tied.data));
}

// Vocabulary shards: one rank has the row, all others -0.0, so the sum has the bits of the row, zeros' signs
// too.
TEST_P(Rows, SumsOfVocabularyShardsAreTheWholeTable) {
  constexpr int kVocab = 320;
  auto table = random_bf16(kVocab, 62, 21);
  table(3, 5) = bf16(-0.0F);
  table(200, 5) = bf16(0.0F);
  table(319, 0).bits = 0x0001;  // the smallest denormal
  const PackedMatrix w = packed(backend_, table);
  const Vector<TokenId> ids{3, 319, 200, 64, 63, 0, 128};
  Host<float> whole(7, 62, kNaN);
  backend_->embed(table.view(), ids.data(), whole.view());
  for (const int ranks : {1, 2, 4, 8}) {
    std::vector<Host<float>> parts(ranks, Host<float>(7, 62, kNaN));
    std::vector<MatrixView<const float>> views;
    for (int rank = 0; rank < ranks; ++rank) {
      const int first = std::min(kVocab, rank * (256 / ranks) / 64 * 64);
      const int end =
          rank + 1 == ranks ? kVocab : (rank + 1) * (256 / ranks) / 64 * 64;  // some ranks have none
      backend_->embed(w.view().columns(first, end - first), ids.data(), parts[rank].view(), first);
      views.push_back(parts[rank].view());
    }
    Host<float> y(7, 62, -0.0F);
    backend_->add_tree(views, y.view());
    EXPECT_TRUE(same_bits(y.data, whole.data)) << ranks << " ranks";
  }
}

TEST_P(Rows, CopyKeepsEveryBitAndTheNeighbours) {
  auto x = random_bf16(9, 70, 22);
  x(0, 3).bits = 0x7fff;  // a NaN's payload
  x(0, 4).bits = 0x8000;
  Host<bf16> y(20, 50, kPoison);
  backend_->copy(x.view().cols_from(3, 33), y.view().rows_from(7, 9).cols_from(11, 33));
  for (int r = 0; r < 20; ++r) {
    for (int c = 0; c < 50; ++c) {
      const bool inside = r >= 7 && r < 16 && c >= 11 && c < 44;
      EXPECT_EQ(y(r, c).bits, inside ? x(r - 7, c - 11 + 3).bits : kPoison.bits) << r << ", " << c;
    }
  }
  EXPECT_THROW(backend_->copy(x.view(), y.view()), Error);
}

TEST_P(Rows, NoRowsAreAllowed) {
  const MatrixView<float> floats{nullptr, 0, 64};
  const MatrixView<bf16> halves{nullptr, 0, 64};
  const auto table = random_bf16(64, 64, 23);
  const PackedMatrix w = packed(backend_, table);
  backend_->embed(table.view(), nullptr, floats);
  backend_->embed(w, nullptr, floats);
  backend_->rms_norm(floats, nullptr, 1e-6F, halves);
  backend_->silu_mul(floats, floats, halves);
  backend_->add(floats, floats);
  backend_->to_bf16(floats, halves);
  backend_->copy(halves, halves);
  backend_->gather_rows(floats, nullptr, floats);
  backend_->argmax(floats, nullptr, nullptr);
  backend_->sum_exp(floats, nullptr, std::array<std::int64_t, 2>{0, 64}, {nullptr, 0, 1});
  backend_->top_k(floats, 3, {nullptr, 0, 3}, {nullptr, 0, 3});
  backend_->add_tree(std::array<MatrixView<const float>, 2>{floats, floats}, floats);
}

TEST_P(Rows, GatherTakesRowsInOrder) {
  const auto x = random_floats(9, 20, 11);
  const Vector<std::int32_t> rows{8, 0, 8};
  Host<float> y(3, 20, kNaN);
  backend_->gather_rows(x.view(), rows.data(), y.view());
  for (int r = 0; r < 3; ++r) EXPECT_TRUE(same_bits(&y(r, 0), &x(rows[r], 0), 20));
  if (on_gpu()) return;  // where indices are the device's, nobody on the host has read them
  const Vector<std::int32_t> wrong{0, 9, 1};
  EXPECT_THROW(backend_->gather_rows(x.view(), wrong.data(), y.view()), Error);
}

}  // namespace
}  // namespace nightshift::kernels::test
