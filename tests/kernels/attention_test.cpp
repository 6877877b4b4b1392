// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/support.h"

namespace nightshift::kernels::test {
namespace {

// One sequence's queries, keys and values, as they come out of the fused QKV product.
struct Sequence {
  AttentionShape shape;
  Host<float> qkv;  // [context, (H + 2 Hkv) D]

  Sequence(const AttentionShape& s, int context, unsigned seed)
      : shape(s),
        qkv(random_floats(context, static_cast<std::int64_t>(s.heads + 2 * s.kv_heads) * s.head_dim, seed)) {}
  int context() const { return static_cast<int>(qkv.rows); }
};

// Where a sequence lives in the cache: logical block i is physical block table[i].
std::vector<BlockId> table(int context, int first = 0) {
  std::vector<BlockId> blocks((context + kKvBlockTokens - 1) / kKvBlockTokens);
  std::iota(blocks.begin(), blocks.end(), first);
  return blocks;
}
std::vector<BlockId> shuffled(std::vector<BlockId> blocks, unsigned seed) {
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(seed));
  return blocks;
}

// A cache in which everything that nobody appended is NaN or infinity.
KvCache poisoned_cache(const Waiting& backend, const AttentionShape& s, std::int64_t blocks, int layers = 1) {
  KvCache cache = backend->make_kv_cache({layers, s.kv_heads, s.head_dim, blocks});
  std::vector<bf16> poison(cache.bytes() / sizeof(bf16));
  for (std::size_t i = 0; i < poison.size(); ++i)
    poison[i].bits = i % 3 == 0 ? 0x7f80 : i % 3 == 1 ? 0xff80 : 0x7fff;
  backend->copy_to_device(cache.head(0, 0, 0), poison.data(), cache.bytes());
  return cache;
}

float scale_of(const AttentionShape& s) {
  return 1.0F / std::sqrt(static_cast<float>(s.head_dim));
}

// One step of all heads on one rank: rope, append, attention. What rope wrote is read in place, with strides.
void step(const Waiting& backend, const AttentionShape& s, const AttentionBatch& batch,
          MatrixView<const float> qkv, KvCache& cache, int window, MatrixView<bf16> out) {
  Host<bf16> heads(qkv.rows, qkv.cols, kPoison);  // [rows, (H + 2 Hkv) D]
  backend->rope(qkv, {s}, batch, 0, {}, {}, heads.view());
  backend->append(heads.view().cols_from(s.heads * s.head_dim, 2 * s.kv_heads * s.head_dim), s, batch, cache,
                  0);
  backend->attention(heads.view().cols_from(0, s.heads * s.head_dim), s, batch, cache, 0, scale_of(s), window,
                     out);
}

// Steps through chunks of a sequence: appends each chunk, then attends. Returns the outputs of all positions.
Host<bf16> run(const Waiting& backend, const Sequence& sequence, const std::vector<int>& chunks,
               const std::vector<BlockId>& blocks, KvCache& cache, int window = 0) {
  const AttentionShape& s = sequence.shape;
  Host<bf16> out(sequence.context(), s.heads * s.head_dim, kPoison);
  int start = 0;
  for (const int chunk : chunks) {
    const std::array slices{SequenceSlice{0, chunk, start, blocks}};
    step(backend, s, *backend->prepare(slices), sequence.qkv.row(start, chunk), cache, window,
         out.view().rows_from(start, chunk));
    start += chunk;
  }
  return out;
}
Host<bf16> run(const Waiting& backend, const Sequence& sequence, const std::vector<int>& chunks,
               int window = 0) {
  const auto blocks = table(sequence.context());
  KvCache cache = poisoned_cache(backend, sequence.shape, static_cast<std::int64_t>(blocks.size()));
  return run(backend, sequence, chunks, blocks, cache, window);
}

std::vector<double> reference(const Sequence& sequence, int first, int count, int window = 0) {
  const AttentionShape& s = sequence.shape;
  const int group = s.heads / s.kv_heads;
  const auto at = [&](int position, int column) { return value(bf16(sequence.qkv(position, column))); };
  std::vector<double> out;
  for (int p = first; p < first + count; ++p) {
    for (int h = 0; h < s.heads; ++h) {
      const int q = h * s.head_dim;
      const int k = (s.heads + h / group) * s.head_dim;
      const int v = k + s.kv_heads * s.head_dim;
      const int begin = window > 0 ? std::max(0, p - window + 1) : 0;
      std::vector<double> weights;
      for (int t = begin; t <= p; ++t) {
        double score = 0.0;
        for (int d = 0; d < s.head_dim; ++d) score += at(p, q + d) * at(t, k + d);
        weights.push_back(score / std::sqrt(s.head_dim));
      }
      const double maximum = *std::max_element(weights.begin(), weights.end());
      double total = 0.0;
      for (double& w : weights) total += w = std::exp(w - maximum);
      for (int d = 0; d < s.head_dim; ++d) {
        double sum = 0.0;
        for (int t = begin; t <= p; ++t) sum += weights[t - begin] * at(t, v + d);
        out.push_back(sum / total);
      }
    }
  }
  return out;
}

// Output rounding to bf16, and where a set rounds softmax weights to bf16 for the product with V, once more
// that.
constexpr double kAttentionTolerance = 3.5e-3;

class Attention : public EveryKernelSet {};
INSTANTIATE_TEST_SUITE_P(Sets, Attention, ::testing::ValuesIn(available_kernel_sets()),
                         [](const auto& set) { return set.param; });

TEST_P(Attention, AgreesWithDoublesForEveryShape) {
  for (const int head_dim : {8, 16, 32, 64, 80, 96, 128, 256}) {
    if (!backend_->takes_head_dim(head_dim)) continue;
    for (const auto& [heads, kv_heads] : {std::array{2, 2}, {4, 2}, {4, 1}, {7, 1}, {8, 1}}) {
      const Sequence sequence({heads, kv_heads, head_dim}, 75, static_cast<unsigned>(head_dim + heads));
      const auto out = run(backend_, sequence, {75});
      EXPECT_LT(relative_error(out.data, reference(sequence, 0, 75)), kAttentionTolerance)
          << heads << "/" << kv_heads << " heads of " << head_dim;
    }
  }
}

TEST_P(Attention, AgreesWithDoublesAcrossContextsAndWindows) {
  for (const int context : {1, 2, 15, 16, 17, 63, 64, 65, 129, 1000, 3000}) {
    for (const int window : {0, 1, 7, 64, 100}) {
      const Sequence sequence({4, 2, 32}, context, static_cast<unsigned>(context));
      const auto out = run(backend_, sequence, {context}, window);
      const int count =
          std::min(context, 20);  // the last positions; earlier ones are last in shorter contexts
      const Vector<bf16> tail(out.data.end() - count * 4 * 32, out.data.end());
      EXPECT_LT(relative_error(tail, reference(sequence, context - count, count, window)),
                kAttentionTolerance)
          << "context " << context << ", window " << window;
    }
  }
}

TEST_P(Attention, EveryChunkingGivesTheSameBits) {
  for (const auto& shape : {AttentionShape{14, 2, 64}, {4, 4, 80}, {8, 1, 128}}) {
    for (const int window : {0, 50}) {
      if (slow() && window != 0 && shape.head_dim != 80) continue;
      const int context = 301;
      const Sequence sequence(shape, context, 31);
      const auto whole = run(backend_, sequence, {context}, window);
      const std::vector<int> decode(context, 1);
      for (const auto& chunks :
           {decode, {1, 300}, {16, 16, 269}, {64, 64, 64, 64, 45}, {100, 1, 1, 99, 100}, {129, 171, 1}}) {
        EXPECT_TRUE(same_bits(run(backend_, sequence, chunks, window).data, whole.data))
            << chunks.size() << " chunks, the first " << chunks.front() << ", window " << window << ", heads "
            << shape.heads;
      }
    }
  }
}

// Contexts of several segments: whole blocks of rows walk through them one after the other, few rows take
// them side by side and are merged.
TEST_P(Attention, MergedSegmentsGiveTheSameBits) {
  for (const AttentionShape& shape : {AttentionShape{4, 1, 64}, {2, 2, 128}}) {
    if (slow() && shape.head_dim == 128) continue;
    const int context = slow() ? 1100 : 2100;
    const Sequence sequence(shape, context, 33);
    for (const int window : {0, 1200}) {
      const auto whole = run(backend_, sequence, {context}, window);
      std::vector<int> decodes(10, 1);
      decodes.insert(decodes.begin(), context - 10);
      EXPECT_TRUE(same_bits(run(backend_, sequence, decodes, window).data, whole.data))
          << "window " << window;
      EXPECT_TRUE(same_bits(run(backend_, sequence, {1020, 3, 2, context - 1025}, window).data, whole.data))
          << "window " << window;
      if (slow()) break;
    }
  }
}

TEST_P(Attention, ThreadsAndBlockTablesGiveTheSameBits) {
  const Sequence sequence({8, 2, 64}, 700, 32);
  const auto reference_bits = run(backend_, sequence, {700});
  for (const int threads : {1, 2, 3}) {
    const auto backend = make(threads);
    const auto blocks = shuffled(table(700, 5), static_cast<unsigned>(threads));
    KvCache cache = poisoned_cache(backend, sequence.shape, 60);
    EXPECT_TRUE(same_bits(run(backend, sequence, {350, 350}, blocks, cache).data, reference_bits.data))
        << threads << " threads";
  }
}

// Prefills, chunks in the middle of a prompt and decodes in one call, in any order, as the scheduler mixes
// them.
TEST_P(Attention, BatchCompositionGivesTheSameBits) {
  const AttentionShape s{6, 3, 64};
  const std::array contexts{200, 33, 16, 97, 1};
  const std::array starts{0, 32, 0, 50, 0};  // computed before the mixed step
  std::vector<Sequence> sequences;
  std::vector<std::vector<BlockId>> blocks;
  KvCache cache = poisoned_cache(backend_, s, 64);
  int next = 0;
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    sequences.emplace_back(s, contexts[i], static_cast<unsigned>(40 + i));
    blocks.push_back(table(contexts[i], next));
    next += static_cast<int>(blocks.back().size());
  }
  for (const auto& order : {std::array{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 4, 0, 3, 1}}) {
    std::vector<SequenceSlice> slices;
    Host<float> qkv(0, (s.heads + 2 * s.kv_heads) * s.head_dim);
    for (const int i : order) {
      if (starts[i] > 0) {
        Sequence prefix = sequences[i];
        prefix.qkv.rows = starts[i];
        run(backend_, prefix, {starts[i]}, blocks[i], cache);
      }
      slices.push_back({qkv.rows, contexts[i] - starts[i], starts[i], blocks[i]});
      const auto rows = sequences[i].qkv.row(starts[i], contexts[i] - starts[i]);
      qkv.data.insert(qkv.data.end(), rows.data, rows.data + rows.rows * rows.cols);
      qkv.rows += rows.rows;
    }
    const auto batch = backend_->prepare(slices);
    Host<bf16> out(qkv.rows, s.heads * s.head_dim, kPoison);
    step(backend_, s, *batch, qkv.view(), cache, 0, out.view());
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto alone = run(backend_, sequences[order[i]], {contexts[order[i]]});
      EXPECT_TRUE(same_bits(&out(slices[i].first_row, 0), &alone(starts[order[i]], 0),
                            slices[i].num_tokens * out.cols))
          << "sequence " << order[i];
    }
  }
}

TEST_P(Attention, HeadsDoNotDependOnTheirCompany) {  // a TP rank holds some of the heads
  const Sequence all({8, 4, 64}, 90, 50);
  const auto whole = run(backend_, all, {90});
  for (int kv = 0; kv < 4; ++kv) {
    Sequence one({2, 1, 64}, 90, 0);
    for (int p = 0; p < 90; ++p) {
      std::copy_n(&all.qkv(p, kv * 128), 128, &one.qkv(p, 0));
      std::copy_n(&all.qkv(p, 512 + kv * 64), 64, &one.qkv(p, 128));
      std::copy_n(&all.qkv(p, 768 + kv * 64), 64, &one.qkv(p, 192));
    }
    const auto out = run(backend_, one, {90});
    for (int p = 0; p < 90; ++p)
      ASSERT_TRUE(same_bits(&out(p, 0), &whole(p, kv * 128), 128)) << "KV head " << kv << ", " << p;
  }
}

// Sequence parallelism: every rank rotates its slice of the tokens for all owners; an owner appends and
// attends what it got from all slices, whose borders cut through sequences.
TEST_P(Attention, OwnersOfHeadsFedBySlicesOfTokensGiveTheSameBits) {
  const AttentionShape all{8, 4, 64};
  const std::array contexts{70, 1, 33};
  std::vector<std::vector<BlockId>> blocks;
  std::vector<SequenceSlice> slices;
  std::int64_t rows = 0;
  int block = 0;
  for (const int context : contexts) {
    blocks.push_back(table(context, block));
    block += static_cast<int>(blocks.back().size());
  }
  for (std::size_t i = 0; i < contexts.size(); rows += contexts[i++])
    slices.push_back({rows, contexts[i], 0, blocks[i]});
  const auto batch = backend_->prepare(slices);
  const auto qkv = random_floats(rows, 16 * 64, 52);
  KvCache cache = poisoned_cache(backend_, all, block);
  Host<bf16> whole(rows, 8 * 64, kPoison);
  step(backend_, all, *batch, qkv.view(), cache, 0, whole.view());

  const AttentionShape own{2, 1, 64};
  constexpr int kOwners = 4;
  const QkvLayout layout{own, kOwners, 4 * 64 + 6};
  for (const std::int64_t cut : {std::int64_t{0}, std::int64_t{1}, std::int64_t{50}, rows}) {
    std::vector<Host<bf16>> received(kOwners, Host<bf16>(rows, 4 * 64, kPoison));
    for (const auto& [first, count] : {std::pair{std::int64_t{0}, cut}, {cut, rows - cut}}) {
      Host<float> mine(count, kOwners * layout.group_stride, kNaN);  // owner order, padding between owners
      for (std::int64_t r = 0; r < count; ++r) {
        for (int owner = 0; owner < kOwners; ++owner) {
          std::copy_n(&qkv(first + r, owner * 128), 128, &mine(r, owner * layout.group_stride));
          std::copy_n(&qkv(first + r, 512 + owner * 64), 64, &mine(r, owner * layout.group_stride + 128));
          std::copy_n(&qkv(first + r, 768 + owner * 64), 64, &mine(r, owner * layout.group_stride + 192));
        }
      }
      Host<bf16> sent(kOwners * count, layout.width(), kPoison);
      backend_->rope(mine.view(), layout, *batch, first, {}, {}, sent.view());
      for (int owner = 0; owner < kOwners; ++owner)
        backend_->copy(sent.view().rows_from(owner * count, count),
                       received[owner].view().rows_from(first, count));
    }
    for (int owner = 0; owner < kOwners; ++owner) {
      KvCache part = poisoned_cache(backend_, own, block);
      Host<bf16> out(rows, 128, kPoison);
      backend_->append(received[owner].view().cols_from(128, 128), own, *batch, part, 0);
      backend_->attention(received[owner].view().cols_from(0, 128), own, *batch, part, 0, scale_of(own), 0,
                          out.view());
      for (std::int64_t r = 0; r < rows; ++r)
        ASSERT_TRUE(same_bits(&out(r, 0), &whole(r, owner * 128), 128))
            << "owner " << owner << ", cut " << cut;
    }
  }
}

TEST_P(Attention, NothingToDoIsAllowed) {
  const AttentionShape s{4, 2, 64};
  KvCache cache = poisoned_cache(backend_, s, 1);
  const auto batch = backend_->prepare({});
  EXPECT_EQ(batch->rows(), 0);
  step(backend_, s, *batch, {nullptr, 0, 512}, cache, 0, {nullptr, 0, 256});
  bf16 untouched;
  backend_->copy_to_host(&untouched, cache.head(0, 0, 0) + 2, sizeof untouched);
  EXPECT_TRUE(std::isnan(value(untouched)));
}

TEST_P(Attention, LargeScoresDoNotOverflow) {
  Sequence sequence({2, 1, 64}, 130, 51);
  for (float& x : sequence.qkv.data)
    x *= 30.0F;  // scores beyond 1e4: exp of any of them alone is infinite or zero
  EXPECT_LT(relative_error(run(backend_, sequence, {130}).data, reference(sequence, 0, 130)),
            kAttentionTolerance);
}

TEST_P(Attention, RefusesWhatDoesNotFit) {
  const AttentionShape s{4, 2, 64};
  KvCache cache = poisoned_cache(backend_, s, 2);
  const std::vector<BlockId> blocks{0, 5};
  EXPECT_THROW(backend_->prepare(std::array{SequenceSlice{0, 33, 0, blocks}}), Error);  // 33 tokens, 2 blocks
  EXPECT_THROW(backend_->prepare(std::array{SequenceSlice{1, 3, 0, blocks}}),
               Error);  // row 0 belongs to nobody
  const auto batch = backend_->prepare(std::array{SequenceSlice{0, 20, 0, blocks}});
  Host<bf16> q(20, 256);
  Host<bf16> out(20, 256);
  EXPECT_THROW(backend_->attention(q.view(), s, *batch, cache, 0, 1.0F, 0, out.view()),
               Error);  // block 5 of 2
  EXPECT_THROW(backend_->attention(q.view(), {4, 1, 64}, *batch, cache, 0, 1.0F, 0, out.view()), Error);
  EXPECT_THROW(backend_->append(q.view(), s, *batch, cache, 0), Error);  // block 5 of 2
  Host<float> qkv(19, 512);
  Host<bf16> heads(19, 512);
  EXPECT_NO_THROW(backend_->rope(qkv.view(), {s}, *batch, 1, {}, {}, heads.view()));
  EXPECT_THROW(backend_->rope(qkv.view(), {s}, *batch, 2, {}, {}, heads.view()), Error);  // rows 2..21 of 20
  EXPECT_THROW(backend_->rope(qkv.view(), {{2, 1, 64}, 2, 255}, *batch, 0, {}, {}, heads.view()), Error);
}

}  // namespace
}  // namespace nightshift::kernels::test
