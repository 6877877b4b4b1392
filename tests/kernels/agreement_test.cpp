// SPDX-License-Identifier: Apache-2.0
// Every operation of every kernel set against the portable one, within the tolerance of its type, and against
// itself: the same call gives the same bits. Inputs are random, outputs start as NaN.
#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "core/reduction.h"
#include "kernels/device_sampler.h"
#include "kernels/support.h"

namespace nightshift::kernels::test {
namespace {

constexpr double kExact = 1e-300;
constexpr double kTwoRoundings = 2 * kBf16Rounding;  // results on both sides of a rounding border
constexpr double kAttention = 5e-3;  // softmax weights are bf16 in sets with such products, fp32 in portable

class Agreement : public EveryKernelSet {
 protected:
  // `work` makes its output anew on the backend it is given.
  template <class F>
  void expect_agreement(double tolerance, const F& work) const {
    const auto expected = work(portable_);
    const auto found = work(backend_);
    EXPECT_LT(relative_error(found.data, expected.data), tolerance);
    for (int run = 0; run < (slow() ? 1 : 3); ++run) EXPECT_TRUE(same_bits(work(backend_).data, found.data));
  }

  Waiting portable_ = make("portable", 2);
};
INSTANTIATE_TEST_SUITE_P(Sets, Agreement, ::testing::ValuesIn(available_kernel_sets()),
                         [](const auto& set) { return set.param; });

// Rows on both sides of the powers of two at which the fast set chooses another algorithm.
constexpr std::array kRows{1, 2, 3, 16, 17, 33};

TEST_P(Agreement, Products) {
  for (const int m : kRows) {
    const auto x = random_bf16(m, 320, 70);
    const auto w = random_bf16(150, 320, 71);
    const auto bias = random_floats(1, 150, 72);
    expect_agreement(kFp32Chain, [&](const Waiting& backend) {
      Host<float> y(m, 150, kNaN);
      backend->gemm(x.view(), packed(backend, w), y.view(), bias.data.data());
      return y;
    });
  }
}

TEST_P(Agreement, ReducedProducts) {
  const ReductionBounds bounds = reduction_bounds(640, 64);
  for (const int m : kRows) {
    const auto x = random_bf16(m, 640, 73);
    const auto w = random_bf16(150, 640, 74);
    const auto residual = random_floats(m, 150, 75);
    const auto weight = random_floats(1, 150, 76);
    expect_agreement(kFp32Chain, [&](const Waiting& backend) {
      Host<float> y = residual;
      backend->gemm_reduced(x.view(), packed(backend, w), bounds, y.view());
      return y;
    });
    expect_agreement(kFp32Chain, [&](const Waiting& backend) {
      Host<float> y(m, 150, kNaN);
      backend->gemm_partial(x.view(), packed(backend, w), bounds, y.view());
      return y;
    });
    expect_agreement(kTwoRoundings, [&](const Waiting& backend) {
      Host<float> y = residual;
      Host<bf16> normed(m, 150, kPoison);
      const RmsNorm norm{weight.data.data(), 1e-5F, normed.view()};
      backend->gemm_reduced(x.view(), packed(backend, w), bounds, y.view(), &norm);
      return normed;
    });
  }
}

// The norm in the same pass is the norm after it.
TEST_P(Agreement, NormWithinTheReduction) {
  const ReductionBounds bounds = reduction_bounds(640, 64);
  for (const int cols : {8, 150, 900}) {
    const auto x = random_bf16(5, 640, 77);
    const auto w = random_bf16(cols, 640, 78);
    const auto weight = random_floats(1, cols, 79);
    const auto residual = random_floats(5, cols, 80);
    Host<float> plain = residual, fused = residual;
    Host<bf16> after(5, cols, kPoison), within(5, cols, kPoison);
    backend_->gemm_reduced(x.view(), packed(backend_, w), bounds, plain.view());
    backend_->rms_norm(plain.view(), weight.data.data(), 1e-5F, after.view());
    const RmsNorm norm{weight.data.data(), 1e-5F, within.view()};
    backend_->gemm_reduced(x.view(), packed(backend_, w), bounds, fused.view(), &norm);
    EXPECT_TRUE(same_bits(fused.data, plain.data)) << cols << " columns";
    EXPECT_TRUE(same_bits(within.data, after.data)) << cols << " columns";
  }
}

TEST_P(Agreement, GatedProducts) {
  for (const int m : kRows) {
    const auto x = random_bf16(m, 96, 81);
    const auto w = random_bf16(gate_up_rows(100), 96, 82, 0.2F);
    const auto bias = random_floats(1, gate_up_rows(100), 83);
    expect_agreement(kTwoRoundings, [&](const Waiting& backend) {
      Host<bf16> y(m, 100, kPoison);
      backend->gemm_silu_mul(x.view(), packed(backend, w), y.view(), bias.data.data());
      return y;
    });
  }
}

TEST_P(Agreement, SumsOverRanks) {
  for (const int count : {1, 2, 5, 8, 64}) {
    std::vector<Host<float>> parts;
    std::vector<MatrixView<const float>> views;
    parts.reserve(count);
    for (int i = 0; i < count; ++i) parts.push_back(random_floats(9, 70, static_cast<unsigned>(84 + i)));
    for (const auto& part : parts) views.push_back(part.view());
    expect_agreement(kExact, [&](const Waiting& backend) {
      auto y = random_floats(9, 70, 83);
      backend->add_tree(views, y.view());
      return y;
    });
  }
}

TEST_P(Agreement, Embedding) {
  const auto table = random_bf16(90, 70, 85);
  const Vector<TokenId> ids{100, 189, 99, 190, 145};
  expect_agreement(kExact, [&](const Waiting& backend) {
    Host<float> y(5, 70, kNaN);
    backend->embed(table.view(), ids.data(), y.view(), 100, 1.5F);
    return y;
  });
  expect_agreement(kExact, [&](const Waiting& backend) {
    Host<float> y(5, 70, kNaN);
    backend->embed(packed(backend, table), ids.data(), y.view(), 100, 1.5F);
    return y;
  });
}

TEST_P(Agreement, PlacedIds) {
  const Vector<PendingId> pending{{3, 0}, {0, 2}, {699, 1}};
  const Vector<TokenId> sampled{11, 12, 13};
  expect_agreement(kExact, [&](const Waiting& backend) {
    Host<TokenId> ids(1, 700, 5);
    backend->place_ids(pending.data(), 3, sampled.data(), ids.data.data());
    EXPECT_EQ(std::vector(ids.data.begin(), ids.data.begin() + 4), (std::vector<TokenId>{13, 5, 5, 11}));
    EXPECT_EQ(ids(0, 699), 12);
    return ids;
  });
}

// What is repeated reads what its buffers hold then.
TEST_P(Agreement, RepeatedWork) {
  auto x = random_floats(5, 100, 94);
  Host<bf16> y(5, 100, kPoison), expected(5, 100, kPoison);
  for (int run = 0; run < 4; ++run) {
    for (float& value : x.data) value *= 1.5F;
    backend_->run_repeatedly(7, [&] { backend_->to_bf16(x.view(), y.view()); });
    for (std::size_t i = 0; i < x.data.size(); ++i) expected.data[i] = bf16(x.data[i]);
    EXPECT_TRUE(same_bits(y.data, expected.data)) << "run " << run;
  }
}

TEST_P(Agreement, RowOperations) {
  for (const int cols : {1, 33, 300, 1500}) {
    const auto x = random_floats(7, cols, 86, 3.0F);
    const auto other = random_floats(7, cols, 87);
    expect_agreement(kTwoRoundings, [&](const Waiting& backend) {
      Host<bf16> y(7, cols, kPoison);
      backend->rms_norm(x.view(), other.data.data(), 1e-6F, y.view());
      return y;
    });
    expect_agreement(kTwoRoundings, [&](const Waiting& backend) {
      Host<bf16> y(7, cols, kPoison);
      backend->silu_mul(x.view(), other.view(), y.view());
      return y;
    });
    expect_agreement(kExact, [&](const Waiting& backend) {
      Host<float> y = other;
      backend->add(x.view(), y.view());
      return y;
    });
    expect_agreement(kExact, [&](const Waiting& backend) {
      Host<bf16> y(7, cols, kPoison);
      backend->to_bf16(x.view(), y.view());
      return y;
    });
    expect_agreement(kExact, [&](const Waiting& backend) {
      const auto from = random_bf16(7, cols, 88);
      Host<bf16> y(7, cols, kPoison);
      backend->copy(from.view(), y.view());
      return y;
    });
    expect_agreement(kExact, [&](const Waiting& backend) {
      const Vector<std::int32_t> rows{6, 0, 3, 3};
      Host<float> y(4, cols, kNaN);
      backend->gather_rows(x.view(), rows.data(), y.view());
      return y;
    });
    expect_agreement(kExact, [&](const Waiting& backend) {
      Host<float> y(7, cols, kNaN);
      backend->fill(y.view(), 1.25F);
      return y;
    });
  }
}

// A prompt in two chunks, a decode of a long context (several segments of it), and a whole prompt, through
// rope, append and attention: outputs of the second step.
TEST_P(Agreement, Attention) {
  for (const int head_dim : {16, 32, 64, 80, 96, 128, 256}) {
    for (const AttentionShape& s : {AttentionShape{8, 2, head_dim}, {3, 3, head_dim}}) {
      if (slow() && s.heads == s.kv_heads && head_dim != 64) continue;
      const std::array contexts{90, 1100, 37};
      const std::array starts{50, 1099, 0};
      const std::int64_t columns = static_cast<std::int64_t>(s.heads + 2 * s.kv_heads) * s.head_dim;
      const auto tables = random_floats(1200, head_dim / 2, 89, 0.7F);
      const auto norm_weight = random_floats(1, head_dim, 90);
      const Rope rope{tables.view(), tables.view()};
      const HeadNorm norm{norm_weight.data.data(), norm_weight.data.data(), 1e-6F};
      expect_agreement(kAttention, [&](const Waiting& backend) {
        KvCache cache = backend->make_kv_cache({1, s.kv_heads, s.head_dim, 100});
        const auto step = [&](const std::vector<SequenceSlice>& slices, unsigned seed, bool attend) {
          const auto batch = backend->prepare(slices);
          const auto qkv = random_floats(batch->rows(), columns, seed);
          Host<bf16> heads(batch->rows(), columns, kPoison);
          Host<bf16> out(batch->rows(), static_cast<std::int64_t>(s.heads) * s.head_dim, kPoison);
          backend->rope(qkv.view(), {s}, *batch, 0, rope, norm, heads.view());
          backend->append(heads.view().cols_from(s.heads * s.head_dim, 2 * s.kv_heads * s.head_dim), s,
                          *batch, cache, 0);
          if (!attend) return out;
          backend->attention(heads.view().cols_from(0, s.heads * s.head_dim), s, *batch, cache, 0, 0.1F, 0,
                             out.view());
          return out;
        };
        std::vector<std::vector<BlockId>> blocks;
        for (int next = 0; const int context : contexts) {
          blocks.emplace_back((context + kKvBlockTokens - 1) / kKvBlockTokens);
          std::iota(blocks.back().begin(), blocks.back().end(), next);
          next += static_cast<int>(blocks.back().size());
        }
        step({{0, 50, 0, blocks[0]}, {50, 1099, 0, blocks[1]}}, 91, false);
        std::vector<SequenceSlice> slices;
        std::int64_t row = 0;
        for (std::size_t i = 0; i < contexts.size(); row += contexts[i] - starts[i], ++i)
          slices.push_back({row, contexts[i] - starts[i], starts[i], blocks[i]});
        return step(slices, 92, true);
      });
    }
  }
}

// A sampler of the set, against argmax and sums in doubles; model::Sampler is compared with it in
// tests/model.
TEST_P(Agreement, ChosenTokens) {
  const auto sampler = backend_->make_sampler(9000);
  if (!on_gpu()) {
    EXPECT_EQ(sampler, nullptr);
    return;
  }
  auto x = random_floats(3, 9001, 95, 4.0F);
  for (int r = 0; r < 3; ++r) x(r, 9000) = 1000.0F;  // padding
  x(1, 17) = kNaN;
  SamplingRow row{};
  row.top_p = row.repetition_penalty = 1.0;
  row.inverse_temperature = 1.0F;
  row.greedy = 1;
  row.logprobs = 3;
  row.pending = -1;
  const Vector<SamplingRow> rows(3, row);
  Vector<TokenEdit> edits(1);
  Vector<TokenId> tokens(3, -7);
  Vector<SampledRow> results(3);
  Host<ScoredToken> top(3, 3);
  SamplingCall call;
  call.rows = rows.data();
  call.edits = edits.data();
  call.tokens = tokens.data();
  call.results = results.data();
  call.top = top.view();
  sampler->sample(x.view(), call);
  backend_->synchronize();
  for (const int r : {0, 2}) {
    const auto best = static_cast<TokenId>(std::max_element(&x(r, 0), &x(r, 9000)) - &x(r, 0));
    double sum = 0.0;
    for (int c = 0; c < 9000; ++c) sum += std::exp(static_cast<double>(x(r, c)) - x(r, best));
    EXPECT_EQ(tokens[r], best);
    EXPECT_EQ(results[r].token, best);
    EXPECT_EQ(results[r].maximum, x(r, best));
    EXPECT_NEAR(results[r].sum, sum, 1e-5 * sum);
    ASSERT_EQ(results[r].tops, 3);
    EXPECT_EQ(top(r, 0).id, best);
    EXPECT_GE(top(r, 0).logit, top(r, 1).logit);
    EXPECT_GE(top(r, 1).logit, top(r, 2).logit);
  }
  EXPECT_EQ(results[1].token, -1);
}

TEST_P(Agreement, Sampling) {
  const auto x = random_floats(5, 9001, 93, 4.0F);
  const Vector<float> maxima(5, 12.0F);
  const std::array<std::int64_t, 4> bounds{0, 100, 4000, 9001};
  expect_agreement(kFp32Chain * 3, [&](const Waiting& backend) {
    Host<float> sums(5, 3, kNaN);
    backend->sum_exp(x.view(), maxima.data(), bounds, sums.view());
    return sums;
  });
  expect_agreement(kExact, [&](const Waiting& backend) {
    Host<TokenId> ids(5, 1, -1);
    Host<float> values(5, 1, kNaN);
    backend->argmax(x.view(), ids.data.data(), values.data.data());
    return ids;
  });
  expect_agreement(kExact, [&](const Waiting& backend) {
    Host<TokenId> ids(5, 12, -1);
    Host<float> values(5, 12, kNaN);
    backend->top_k(x.view(), 12, ids.view(), values.view());
    return values;
  });
}

}  // namespace
}  // namespace nightshift::kernels::test
