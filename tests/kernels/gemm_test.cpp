// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "core/reduction.h"
#include "kernels/support.h"
#include "kernels/team.h"

namespace nightshift::kernels::test {
namespace {

class Gemm : public EveryKernelSet {};
INSTANTIATE_TEST_SUITE_P(Sets, Gemm, ::testing::ValuesIn(available_kernel_sets()),
                         [](const auto& set) { return set.param; });

std::vector<double> product(const Host<bf16>& x, const Host<bf16>& w) {
  std::vector<double> y(x.rows * w.rows);
  for (std::int64_t m = 0; m < x.rows; ++m) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      double sum = 0.0;
      for (std::int64_t k = 0; k < x.cols; ++k) sum += value(x(m, k)) * value(w(n, k));
      y[m * w.rows + n] = sum;
    }
  }
  return y;
}

TEST_P(Gemm, AgreesWithDoublesForOddShapes) {
  for (const auto& [m, n, k] : {std::array{1, 1, 2},
                                {3, 63, 14},
                                {5, 64, 896},
                                {7, 65, 30},
                                {13, 200, 130},
                                {97, 129, 256},
                                {6, 10, 4096}}) {
    const auto x = random_bf16(m, k, 1);
    const auto w = random_bf16(n, k, 2);
    Host<float> y(m, n, kNaN);
    backend_->gemm(x.view(), packed(backend_, w), y.view());
    EXPECT_LT(relative_error(y.data, product(x, w)), kFp32Chain) << m << " x " << n << " x " << k;
  }
}

TEST_P(Gemm, AddsBiasAndLeavesNeighboursAlone) {
  const auto x = random_bf16(5, 64, 3);
  const auto w = random_bf16(70, 64, 4);
  const auto bias = random_floats(1, 70, 5);
  Host<float> wide(5, 80, 7.0F);
  Host<float> plain(5, 70);
  backend_->gemm(x.view(), packed(backend_, w), wide.view().cols_from(4, 70), bias.data.data());
  backend_->gemm(x.view(), packed(backend_, w), plain.view());
  Host<float> expected(5, 80, 7.0F);
  for (int m = 0; m < 5; ++m) {
    for (int c = 4; c < 74; ++c) expected(m, c) = plain(m, c - 4) + bias.data[c - 4];
    EXPECT_TRUE(same_bits(&wide(m, 0), &expected(m, 0), 4) && same_bits(&wide(m, 74), &expected(m, 74), 6));
  }
  EXPECT_TRUE(alike(wide.data, expected.data));
}

TEST_P(Gemm, RowsDoNotDependOnTheirCompany) {
  constexpr int kRows = 130;
  std::vector<int> counts(kRows);
  std::iota(counts.begin(), counts.end(), 1);
  if (slow()) counts = {1, 2, 17, 64, 130};  // one line of code multiplies there, whatever the number of rows
  for (const auto& [n, k] : {std::array{128, 896}, {65, 14}, {192, 2560}}) {
    const auto x = random_bf16(kRows, k, 6);
    const PackedMatrix w = packed(backend_, random_bf16(n, k, 7));
    Host<float> alone(kRows, n);
    for (int m = 0; m < kRows; ++m) backend_->gemm(x.row(m), w, alone.view().rows_from(m, 1));
    for (const int rows : counts) {
      Host<float> together(rows, n, kNaN);
      backend_->gemm(x.row(0, rows), w, together.view());
      ASSERT_TRUE(alike_rows(together.data.data(), alone.data.data(), together.rows * n))
          << rows << " rows, N " << n << ", K " << k;
    }
  }
}

TEST_P(Gemm, ThreadsAndColumnShardsGiveTheSameBits) {
  const auto x = random_bf16(77, 512, 8);
  const auto weights = random_bf16(1000, 512, 9);
  Host<float> reference(77, 1000);
  backend_->gemm(x.view(), packed(backend_, weights), reference.view());
  for (const int threads : {1, 2, 3}) {
    const auto backend = make(threads);
    const PackedMatrix w = packed(backend, weights);
    Host<float> y(77, 1000, kNaN);
    backend->gemm(x.view(), w.view().columns(0, 448), y.view().cols_from(0, 448));
    backend->gemm(x.view(), w.view().columns(448, 552), y.view().cols_from(448, 552));
    EXPECT_TRUE(alike(y.data, reference.data)) << threads << " threads";
  }
}

std::vector<std::int64_t> even_bounds(std::int64_t k, int shards) {
  std::vector<std::int64_t> bounds;
  for (int s = 0; s <= shards; ++s) bounds.push_back(k / 2 * s / shards * 2);
  return bounds;
}

// The definition: every shard a plain gemm, summed by tree_sum, added to the residual.
Host<float> reduced_by_definition(const Waiting& backend, const Host<bf16>& x, const PackedMatrix& w,
                                  const std::vector<std::int64_t>& bounds, const Host<float>& residual) {
  std::vector<Host<float>> parts;
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
    parts.emplace_back(x.rows, w.n());
    if (bounds[s] == bounds[s + 1]) continue;
    backend->gemm(x.view().cols_from(bounds[s], bounds[s + 1] - bounds[s]),
                  w.view().k_range(bounds[s], bounds[s + 1]), parts.back().view());
  }
  Host<float> y = residual;
  for (std::size_t i = 0; i < y.data.size(); ++i) {
    std::vector<float> values;
    for (const auto& part : parts) values.push_back(part.data[i]);
    y.data[i] += tree_sum(values);
  }
  return y;
}

TEST_P(Gemm, ReducedFollowsItsDefinition) {
  for (const int shards : {1, 2, 3, 5, 6, 7, 8, 16, 64}) {
    for (const auto& [m, k] : {std::array{1, 896}, {7, 14}, {100, 448}}) {
      const auto x = random_bf16(m, k, 10);
      const PackedMatrix w = packed(backend_, random_bf16(130, k, 11));
      const auto bounds = even_bounds(k, shards);  // with K = 14 some shards are empty
      const auto residual = random_floats(m, 130, 12);
      Host<float> y = residual;
      backend_->gemm_reduced(x.view(), w, bounds, y.view());
      EXPECT_TRUE(alike(y.data, reduced_by_definition(backend_, x, w, bounds, residual).data))
          << shards << " shards, K " << k;
    }
  }
}

// Row-parallel shards of P ranks, as tensor parallelism cuts them: whole heads, or whole gate/up units. The
// small widths leave some ranks without any unit.
TEST_P(Gemm, RanksThatHoldSubtreesReproduceTheBits) {
  constexpr int kRows = 9;
  struct Cut {
    std::int64_t k, unit;
  };
  for (const Cut cut : {Cut{14 * 64, 64},
                        {4864, kMlpUnit},
                        {24 * 80, 80},
                        {352, kMlpUnit},
                        {96, kMlpUnit},
                        {100, kMlpUnit},
                        {2 * 64, 64}}) {
    const auto x = random_bf16(kRows, cut.k, 13);
    const PackedMatrix w = packed(backend_, random_bf16(200, cut.k, 14));
    const ReductionBounds bounds = reduction_bounds(cut.k, cut.unit);
    auto residual = random_floats(kRows, 200, 15);
    residual(0, 0) = -0.0F;
    Host<float> whole = residual;
    backend_->gemm_reduced(x.view(), w, bounds, whole.view());
    for (const int ranks : {1, 2, 4, 8}) {
      const int each = kReductionShards / ranks;
      std::vector<Host<float>> parts(ranks, Host<float>(kRows, 200, kNaN));
      std::vector<MatrixView<const float>> views;
      for (int rank = 0; rank < ranks; ++rank) {
        std::vector<std::int64_t> own(bounds.begin() + rank * each, bounds.begin() + (rank + 1) * each + 1);
        const std::int64_t begin = own.front();
        const std::int64_t end = own.back();
        for (auto& b : own) b -= begin;
        backend_->gemm_partial(x.view().cols_from(begin, end - begin), w.view().k_range(begin, end), own,
                               parts[rank].view());
        views.push_back(parts[rank].view());
      }
      Host<float> y = residual;
      backend_->add_tree(views, y.view());
      EXPECT_TRUE(alike(y.data, whole.data)) << ranks << " ranks, K " << cut.k;
    }
  }
}

// Column-parallel shards of a fused matrix: every rank's outputs are columns of the whole product, with bias
// and behind padding, for a row-parallel shard of K too.
TEST_P(Gemm, ColumnShardsAreColumnsOfTheWhole) {
  constexpr int kRows = 13;
  constexpr int kN = 8 * 128;
  const auto x = random_bf16(kRows, 500, 26);
  const PackedMatrix w = packed(backend_, random_bf16(kN, 500, 27));
  const auto bias = random_floats(1, kN, 28);
  for (const auto& [begin, end] : {std::pair{0, 500}, {64, 500}, {128, 300}, {2, 4}}) {
    const auto inputs = x.view().cols_from(begin, end - begin);
    Host<float> whole(kRows, kN, kNaN);
    backend_->gemm(inputs, w.view().k_range(begin, end), whole.view(), bias.data.data());
    for (const int ranks : {2, 4, 8}) {
      const std::int64_t each = kN / ranks;
      for (int rank = 0; rank < ranks; ++rank) {
        const std::int64_t count = rank % 3 == 0 ? each - 20 : each;  // some end inside a panel
        Host<float> y(kRows, count, kNaN);
        backend_->gemm(inputs, w.view().columns(rank * each, count).k_range(begin, end), y.view(),
                       bias.data.data() + rank * each);
        for (int r = 0; r < kRows; ++r)
          ASSERT_TRUE(alike_rows(&y(r, 0), &whole(r, rank * each), count))
              << rank << " of " << ranks << " ranks";
      }
    }
  }
}

TEST_P(Gemm, NothingToDoIsAllowed) {
  const PackedMatrix w = packed(backend_, random_bf16(128, 64, 29));
  const std::array<std::int64_t, 3> bounds{0, 32, 64};
  const std::array<std::int64_t, 3> none{0, 0, 0};
  const MatrixView<const bf16> no_rows{nullptr, 0, 64};
  backend_->gemm(no_rows, w, {nullptr, 0, 128});
  backend_->gemm_reduced(no_rows, w, bounds, {nullptr, 0, 128});
  backend_->gemm_partial(no_rows, w, bounds, {nullptr, 0, 128});
  backend_->gemm_silu_mul(no_rows, w, {nullptr, 0, 64});
  const auto x = random_bf16(3, 64, 30);
  backend_->gemm(x.view(), w.view().columns(128, 0), {nullptr, 3, 0});
  Host<float> y(3, 128, kNaN);  // a rank without any input feature: sums of nothing
  backend_->gemm_partial(x.view().cols_from(64, 0), w.view().k_range(64, 64), none, y.view());
  EXPECT_TRUE(same_bits(y.data, std::vector<float>(3 * 128, 0.0F)));
}

// A sum over ranks as it arrives: [units, 64] back to back, rows of any width, views with strides.
TEST_P(Gemm, AddTreeFollowsItsDefinitionForEveryShapeOfView) {
  for (const int count : {1, 2, 3, 4, 5, 7, 8, 16, 64}) {
    for (const auto& [rows, cols, padding] : {std::array{300, 64, 0},
                                              {300, 64, 8},
                                              {5, 1000, 0},
                                              {5, 1000, 3},
                                              {1, 1, 0},
                                              {7, 33, 1},
                                              {0, 64, 0}}) {
      std::vector<Host<float>> parts;
      std::vector<MatrixView<const float>> views;
      parts.reserve(count);
      for (int i = 0; i < count; ++i) {
        parts.push_back(random_floats(rows, cols + padding, static_cast<unsigned>(i)));
        for (float& value : parts.back().data) value = std::abs(value) < 0.3F ? -0.0F : value;
        views.push_back(parts.back().view().cols_from(0, cols));
      }
      Host<float> y = random_floats(rows, cols + padding, 99);
      for (float& value : y.data) value = std::abs(value) < 0.5F ? -0.0F : value;
      Host<float> expected = y;
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < cols; ++c) {
          std::vector<float> values;
          for (const auto& part : parts) values.push_back(part(r, c));
          expected(r, c) += tree_sum(values);
        }
      }
      backend_->add_tree(views, y.view().cols_from(0, cols));
      EXPECT_TRUE(same_bits(y.data, expected.data)) << count << " parts of " << rows << " x " << cols;
    }
  }
}

TEST_P(Gemm, ReducedRowsDoNotDependOnTheirCompany) {
  const auto x = random_bf16(130, 4864, 16, 0.3F);
  const PackedMatrix w = packed(backend_, random_bf16(96, 4864, 17));
  const auto bounds = even_bounds(4864, kReductionShards);
  Host<float> together(130, 96, 1.0F);
  backend_->gemm_reduced(x.view(), w, bounds, together.view());
  for (int first = 0; first < 130;) {
    const int rows = std::min(130 - first, 1 + first % 9);
    Host<float> y(rows, 96, 1.0F);
    backend_->gemm_reduced(x.row(first, rows), w, bounds, y.view());
    ASSERT_TRUE(alike_rows(y.data.data(), &together(first, 0), y.rows * 96)) << first << " + " << rows;
    first += rows;
  }
}

TEST_P(Gemm, SiluMulIsTheProductThenTheActivation) {
  for (const int intermediate : {32, 33, 100, 352}) {
    const int rows = 11;
    const int k = 96;
    const auto gate = random_bf16(intermediate, k, 18, 0.2F);
    const auto up = random_bf16(intermediate, k, 19, 0.2F);
    Host<bf16> both(gate_up_rows(intermediate), k);
    for (int i = 0; i < intermediate; ++i) {
      std::copy_n(&gate(i, 0), k, &both(gate_up_row(i, false), 0));
      std::copy_n(&up(i, 0), k, &both(gate_up_row(i, true), 0));
    }
    const auto x = random_bf16(rows, k, 20);
    Host<bf16> fused(rows, intermediate, kPoison);
    backend_->gemm_silu_mul(x.view(), packed(backend_, both), fused.view());
    Host<float> g(rows, intermediate);
    Host<float> u(rows, intermediate);
    Host<bf16> apart(rows, intermediate);
    backend_->gemm(x.view(), packed(backend_, gate), g.view());
    backend_->gemm(x.view(), packed(backend_, up), u.view());
    backend_->silu_mul(g.view(), u.view(), apart.view());
    EXPECT_TRUE(alike(fused.data, apart.data, kBf16Rounding)) << "intermediate " << intermediate;
  }
}

// Biases of gate and up, and the shards of tensor parallelism, which start at any panel.
TEST_P(Gemm, SiluMulAddsBiasesFirst) {
  for (const int intermediate : {32, 33, 100, 352}) {
    const int rows = 7;
    const int k = 96;
    const auto x = random_bf16(rows, k, 31);
    const PackedMatrix w = packed(backend_, random_bf16(gate_up_rows(intermediate), k, 32, 0.2F));
    const auto bias = random_floats(1, w.n(), 33);
    Host<float> both(rows, w.n(), kNaN);
    backend_->gemm(x.view(), w, both.view(), bias.data.data());
    Host<bf16> fused(rows, intermediate, kPoison);
    Host<bf16> apart(rows, intermediate, kPoison);
    Host<bf16> shards(rows, intermediate, kPoison);
    backend_->gemm_silu_mul(x.view(), w, fused.view(), bias.data.data());
    for (int first = 0; first < intermediate; first += 32) {
      const int count = std::min(32, intermediate - first);
      backend_->silu_mul(both.view().cols_from(gate_up_row(first, false), count),
                         both.view().cols_from(gate_up_row(first, true), count),
                         apart.view().cols_from(first, count));
    }
    for (int first = 0; first < intermediate; first += 64) {
      const int count = std::min(64, intermediate - first);
      backend_->gemm_silu_mul(x.view(), w.view().columns(gate_up_row(first, false), gate_up_rows(count)),
                              shards.view().cols_from(first, count),
                              bias.data.data() + gate_up_row(first, false));
    }
    EXPECT_TRUE(alike(fused.data, apart.data, kBf16Rounding)) << "intermediate " << intermediate;
    EXPECT_TRUE(alike(fused.data, shards.data, kBf16Rounding)) << "intermediate " << intermediate;
  }
}

std::vector<bf16> elements_of(const Waiting& backend, const PackedMatrix& w, std::size_t bytes) {
  std::vector<bf16> elements(bytes / sizeof(bf16));
  backend->copy_to_host(elements.data(), w.data(), bytes);
  return elements;
}

TEST_P(Gemm, ReadsNothingBehindItsInputs) {
  for (const auto& [m, k] : {std::array{1, 2}, {2, 30}, {7, 126}, {65, 608}, {97, 4864}}) {
    const auto x = random_bf16(m, k, 24);
    const auto w = random_bf16(70, k, 25);
    const PackedMatrix copy = packed(backend_, w);
    const std::size_t bytes = backend_->packed_bytes(70, k);
    const Guarded<bf16> guarded_x(x.data);
    const Guarded<bf16> guarded_w(elements_of(backend_, copy, bytes));
    const Guarded<float> guarded_y(std::vector<float>(static_cast<std::size_t>(m * 70)));
    const PackedMatrix own =
        backend_->make_packed(70, k, {reinterpret_cast<std::byte*>(guarded_w.data()), bytes});
    const MatrixView<float> y{guarded_y.data(), m, 70};
    backend_->gemm({guarded_x.data(), m, k}, own, y);
    Host<float> expected(m, 70);
    backend_->gemm(x.view(), copy, expected.view());
    EXPECT_TRUE(alike_rows<float>(y.data, expected.data.data(), m * 70)) << m << " x " << k;
    backend_->gemm_reduced({guarded_x.data(), m, k}, own, even_bounds(k, 8), y);
  }
}

TEST_P(Gemm, PacksInAnyOrderAndIntoForeignMemory) {
  const auto w = random_bf16(150, 24, 21);
  const PackedMatrix own = packed(backend_, w);
  const std::size_t bytes = backend_->packed_bytes(150, 24);
  const Buffer memory = backend_->allocate(bytes, "test::window");
  PackedMatrix foreign = backend_->make_packed(150, 24, {memory.as<std::byte>(), bytes});
  backend_->zero_padding(foreign);
  for (const auto& [first, count] : {std::pair{100, 50}, {0, 1}, {1, 99}})
    backend_->pack_rows(foreign, first, w.row(first, count));
  EXPECT_TRUE(same_bits(elements_of(backend_, foreign, bytes), elements_of(backend_, own, bytes)));
}

// Rows of one panel come from different pieces of a file, in any number, from threads of a caller that has
// its own loop, and K may end within a transposed block.
TEST_P(Gemm, PacksEveryRunOfRowsToItsPlace) {
  for (const int k : {2, 30, 32, 34, 96, 2080}) {
    constexpr int kN = 200;
    const auto w = random_bf16(kN, k, 34);
    const std::size_t elements = backend_->packed_bytes(kN, k) / sizeof(bf16);
    std::vector<bf16> expected(elements, bf16(0.0F));
    for (int n = 0; n < kN; ++n) {
      for (int i = 0; i < k; ++i)
        expected[on_gpu() ? n * k + i : ((n / 64 * (k / 2) + i / 2) * 64 + n % 64) * 2 + i % 2] = w(n, i);
    }
    for (const std::vector<int>& runs : {std::vector{200},
                                         {64, 64, 64, 8},
                                         {1, 15, 16, 17, 31, 33, 47, 40},
                                         {32, 32, 32, 32, 32, 32, 8},
                                         {63, 2, 62, 73}}) {
      PackedMatrix own = backend_->make_packed(kN, k);
      std::vector<int> first{0};
      for (const int run : runs) first.push_back(first.back() + run);
      ASSERT_EQ(first.back(), kN);
      for_each_tile("test::pack", 2, static_cast<std::int64_t>(runs.size()), 1e9, [&](int, std::int64_t i) {
        const Guarded<bf16> rows(std::span(&w(first[i], 0), static_cast<std::size_t>(runs[i] * k)));
        backend_->pack_rows(own, first[i], {rows.data(), runs[i], k});
      });
      EXPECT_TRUE(same_bits(elements_of(backend_, own, elements * sizeof(bf16)), expected))
          << runs.size() << " runs, the first of " << runs.front() << ", K " << k;
    }
  }
}

TEST_P(Gemm, RefusesWrongShapesByName) {
  const auto x = random_bf16(2, 64, 22);
  const PackedMatrix w = packed(backend_, random_bf16(64, 64, 23));
  Host<float> y(2, 63);
  try {
    backend_->gemm(x.view(), w, y.view());
    FAIL() << "2 x 63 was accepted for 2 x 64";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("kernels::gemm: y is 2 x 63"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("expected 2 x 64"), std::string::npos) << e.what();
  }
  Host<float> right(2, 64);
  EXPECT_THROW(backend_->gemm_reduced(x.view(), w, std::vector<std::int64_t>{0, 31, 64}, right.view()),
               Error);
  EXPECT_THROW(backend_->gemm_reduced(x.view(), w, std::vector<std::int64_t>{0, 32}, right.view()), Error);
  EXPECT_THROW(w.view().columns(32, 32), Error);
  EXPECT_THROW(w.view().k_range(1, 32), Error);
  EXPECT_THROW(backend_->make_packed(64, 63), Error);
}

TEST(TreeSum, AddsPowersOfTwoOnTheLeft) {
  // Values whose sum shows the order: 2^24 swallows ones that come one by one, not two at a time.
  const std::vector<float> parts{16777216.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F};
  const float left = (parts[0] + parts[1]) + (parts[2] + parts[3]);
  EXPECT_EQ(tree_sum(parts), left + ((1.0F + 1.0F) + (1.0F + 1.0F)));
  EXPECT_EQ(tree_sum(std::span(parts).first(3)), (parts[0] + parts[1]) + parts[2]);
  EXPECT_EQ(tree_sum(std::span(parts).first(6)), left + (1.0F + 1.0F));
}

}  // namespace
}  // namespace nightshift::kernels::test
