// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>

#include "kernels/support.h"

namespace nightshift::kernels::test {
namespace {

class RopeRows : public EveryKernelSet {};
INSTANTIATE_TEST_SUITE_P(Sets, RopeRows, ::testing::ValuesIn(available_kernel_sets()),
                         [](const auto& set) { return set.param; });

struct RopeCase {
  AttentionShape shape;
  int rotary_dim;
  bool norm;
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

// K and V of one head of one block as the documented layouts place them. CPUs: pairs of dimensions, or of
// tokens, together; GPUs: a token's dimensions.
struct Head {
  std::vector<bf16> data;
  int head_dim;
  bool gpu;
  float k_at(int slot, int d) const {
    return static_cast<float>(data[gpu ? slot * head_dim + d : d / 2 * 32 + slot * 2 + d % 2]);
  }
  float v_at(int slot, int d) const {
    const int padded = (head_dim + 15) / 16 * 16;
    const int within = gpu ? slot * head_dim + d : slot / 2 * 2 * padded + 2 * d + slot % 2;
    return static_cast<float>(data[16 * head_dim + within]);
  }
};
Head head_of(const Waiting& backend, const KvCache& cache, int layer, BlockId block, int kv_head) {
  Head head{std::vector<bf16>(cache.head_stride()), cache.shape().head_dim,
            backend->device() == Device::cuda};
  backend->copy_to_host(head.data.data(), cache.head(layer, block, kv_head), head.data.size() * sizeof(bf16));
  return head;
}

// Tables of angle p * 10000^(-2 i / rotary_dim).
struct Tables {
  Host<float> cos, sin;
  Tables(int positions, int rotary_dim) : cos(positions, rotary_dim / 2), sin(positions, rotary_dim / 2) {
    for (int p = 0; p < positions; ++p) {
      for (int i = 0; i < rotary_dim / 2; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / rotary_dim);
        cos(p, i) = static_cast<float>(std::cos(angle));
        sin(p, i) = static_cast<float>(std::sin(angle));
      }
    }
  }
  Rope rope() const { return {cos.view(), sin.view()}; }
};

constexpr int kStart = 9;  // position of the first token

void check_rope(const Waiting& backend, const RopeCase& c) {
  const AttentionShape& s = c.shape;
  constexpr int kTokens = 21;
  const Tables tables(40, c.rotary_dim);
  const auto q_weight = random_floats(1, s.head_dim, 12);
  const auto k_weight = random_floats(1, s.head_dim, 13);
  const HeadNorm norm{c.norm ? q_weight.data.data() : nullptr, c.norm ? k_weight.data.data() : nullptr,
                      1e-6F};
  const auto qkv = random_floats(kTokens, (s.heads + 2 * s.kv_heads) * s.head_dim, 14);
  const std::vector<BlockId> blocks{3, 1};
  const auto batch = backend->prepare(std::array{SequenceSlice{0, kTokens, kStart, blocks}});
  KvCache cache = backend->make_kv_cache({2, s.kv_heads, s.head_dim, 4});
  Host<bf16> heads(kTokens, qkv.cols, kPoison);
  backend->rope(qkv.view(), {s}, *batch, 0, tables.rope(), norm, heads.view());
  backend->append(heads.view().cols_from(s.heads * s.head_dim, 2 * s.kv_heads * s.head_dim), s, *batch, cache,
                  1);
  std::vector<double> expected;
  for (int t = 0; t < kTokens; ++t) {
    const int position = kStart + t;
    const int slot = position % kKvBlockTokens;
    for (int h = 0; h < s.heads + 2 * s.kv_heads; ++h) {
      const float* source = &qkv(t, h * s.head_dim);
      const bool is_v = h >= s.heads + s.kv_heads;
      const auto y = is_v ? std::vector<double>(source, source + s.head_dim)
                          : rotated_head(source, c, tables.rope(), position, h < s.heads ? norm.q : norm.k);
      expected.insert(expected.end(), y.begin(), y.end());
      if (h < s.heads) continue;
      const Head head =
          head_of(backend, cache, 1, blocks[position / kKvBlockTokens], (h - s.heads) % s.kv_heads);
      for (int d = 0; d < s.head_dim; ++d) {
        ASSERT_EQ(is_v ? head.v_at(slot, d) : head.k_at(slot, d),
                  static_cast<float>(heads(t, h * s.head_dim + d)))
            << "token " << t << ", head " << h;
      }
    }
  }
  EXPECT_LT(relative_error(heads.data, expected), 1.5 * kBf16Rounding)
      << s.heads << "/" << s.kv_heads << " x " << s.head_dim << ", rotary " << c.rotary_dim << ", norm "
      << c.norm;
}

TEST_P(RopeRows, NormAndAppendFollowTheFormula) {
  for (const int head_dim : {8, 32, 64, 80, 96, 128, 256}) {
    if (!backend_->takes_head_dim(head_dim)) continue;
    check_rope(backend_, {{4, 2, head_dim}, head_dim, false});
    check_rope(backend_, {{4, 2, head_dim}, head_dim, true});
    check_rope(backend_, {{3, 3, head_dim}, head_dim / 2, false});  // partial rotation
  }
  check_rope(backend_, {{14, 2, 64}, 64, false});
}

TEST_P(RopeRows, ConvertsValuesAsTheyAre) {
  const auto qkv = random_floats(5, 4 * 24, 24);
  const std::vector<BlockId> blocks{0};
  const auto batch = backend_->prepare(std::array{SequenceSlice{0, 5, 0, blocks}});
  Host<bf16> heads(5, 4 * 24, kPoison);
  Host<bf16> expected(5, 4 * 24, kPoison);
  backend_->rope(qkv.view(), {{2, 1, 24}}, *batch, 0, Tables(16, 24).rope(), {}, heads.view());
  backend_->to_bf16(qkv.view(), expected.view());
  for (int t = 0; t < 5; ++t) EXPECT_TRUE(same_bits(&heads(t, 72), &expected(t, 72), 24)) << "token " << t;
  EXPECT_TRUE(same_bits(&heads(0, 0), &expected(0, 0), 72));  // position 0: rotated by nothing
  EXPECT_FALSE(same_bits(&heads(1, 0), &expected(1, 0), 72));
}

// Where head h of [Q | K | V] lies in owner order.
struct Place {
  int owner;
  int column;  // within the owner's part
};
Place place(const AttentionShape& all, int groups, int h) {
  const bool is_q = h < all.heads;
  const int each = (is_q ? all.heads : all.kv_heads) / groups;
  const int at = is_q ? h : (h - all.heads) % all.kv_heads;
  const int before = is_q ? 0 : (h - at) / groups;  // heads of other kinds
  return {at / each, (before + at % each) * all.head_dim};
}

// What a rank sends to the owners of heads is a reordering of what it would keep: by owner, then by token.
TEST_P(RopeRows, OfGroupsAreOnlyReordered) {
  const AttentionShape all{8, 4, 80};
  const Tables tables(40, 80);
  const auto q_weight = random_floats(1, 80, 25);
  const auto k_weight = random_floats(1, 80, 26);
  const HeadNorm norm{q_weight.data.data(), k_weight.data.data(), 1e-6F};
  const auto qkv = random_floats(23, 16 * 80, 27);
  const std::vector<BlockId> blocks{0, 1};
  const auto batch = backend_->prepare(std::array{SequenceSlice{0, 23, kStart, blocks}});
  Host<bf16> whole(23, qkv.cols, kPoison);
  backend_->rope(qkv.view(), {all}, *batch, 0, tables.rope(), norm, whole.view());
  for (const auto& [groups, padding] : {std::pair{1, 0}, {2, 64}, {4, 0}}) {
    const QkvLayout layout{{8 / groups, 4 / groups, 80}, groups, 16 * 80 / groups + padding};
    for (const auto& [first, count] : {std::pair{0, 23}, {0, 0}, {4, 1}, {16, 7}, {23, 0}}) {
      Host<float> mine(count, groups * layout.group_stride - padding, kNaN);  // the last group ends without
      Host<bf16> expected(groups * count, layout.width(), kPoison);
      for (int r = 0; r < count; ++r) {
        for (int h = 0; h < 16; ++h) {
          const Place at = place(all, groups, h);
          std::copy_n(&qkv(first + r, h * 80), 80, &mine(r, at.owner * layout.group_stride + at.column));
          std::copy_n(&whole(first + r, h * 80), 80, &expected(at.owner * count + r, at.column));
        }
      }
      Host<bf16> out(groups * count, layout.width(), kPoison);
      backend_->rope(mine.view(), layout, *batch, first, tables.rope(), norm, out.view());
      EXPECT_TRUE(same_bits(out.data, expected.data)) << groups << " groups, rows from " << first;
    }
  }
}

}  // namespace
}  // namespace nightshift::kernels::test
