// SPDX-License-Identifier: Apache-2.0
// Every geometry up to 16 ranks. What a rank owns is derived a second time here, from how tensor and sequence
// parallelism cut the heads one after the other, and compared with the chunks.
#include "parallel/layout/layout.h"

#include <gtest/gtest.h>

#include <set>

#include "core/check.h"

namespace nightshift::parallel {
namespace {

constexpr int kMostRanks = 16;

struct Heads {
  int query, kv;
};

// What models have (powers of two, 12, 14, 20, 28, 40, 56, 71, 112), and what none has.
std::vector<Heads> all_heads() {
  std::vector<Heads> all;
  for (const int query :
       {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 16, 20, 24, 28, 30, 32, 40, 48, 56, 64, 71, 80, 96, 112, 128})
    for (int kv = 1; kv <= query; ++kv)
      if (query % kv == 0) all.push_back({query, kv});
  return all;
}

ModelShape shape_of(const Heads& heads) {
  ModelShape shape;
  shape.heads = heads.query;
  shape.kv_heads = heads.kv;
  shape.head_dim = 64;
  shape.hidden = heads.query * 64;
  shape.intermediate = 4864;
  return shape;
}

// Calls `body` for every rank of every legal geometry.
template <class Body>
void for_each_rank(bool shifts, const Body& body) {
  for (const Heads& heads : all_heads())
    for (const Degrees& degrees : legal_degrees(shape_of(heads), kMostRanks, shifts))
      for (int rank = 0; rank < degrees.ranks(); ++rank) body(heads, degrees, place_of(rank, degrees));
}

// Part i of `parts` of a range of query heads.
Range part(const Range& of, int parts, int i) {
  const std::int64_t each = of.size() / parts;
  return {of.begin + i * each, of.begin + (i + 1) * each};
}
// The same for KV heads; where there are fewer than parts, each is repeated for consecutive ones.
Range kv_part(const Range& of, int parts, int i) {
  if (of.size() >= parts) return part(of, parts, i);
  const std::int64_t one = of.begin + i / (parts / of.size());
  return {one, one + 1};
}

// Ulysses after tensor parallelism: the exchange deals the heads of the rank's weight shard to its sequence
// group.
Range base_heads(const Heads& heads, const Degrees& degrees, const Place& place) {
  return part(part({0, heads.query}, degrees.tensor, place.t), degrees.sequence, place.s);
}
Range base_kv_heads(const Heads& heads, const Degrees& degrees, const Place& place) {
  return kv_part(kv_part({0, heads.kv}, degrees.tensor, place.t), degrees.sequence, place.s);
}

TEST(Layout, BothLayoutsOwnTheSameHeads) {
  int cases = 0, moved = 0, only_chunks = 0;
  for_each_rank(false, [&](const Heads& heads, const Degrees& degrees, const Place& place) {
    const int ranks = degrees.ranks(), chunk = chunk_of(place, degrees);
    const Range query = base_heads(heads, degrees, place), kv = base_kv_heads(heads, degrees, place);
    ASSERT_EQ(query, heads_of(chunk, ranks, heads.query));
    // With 3 KV heads and a tensor degree of 2, say, no weight shard holds whole KV heads of its own, and
    // only the chunks tell who has what; the test after the next shows that they tell right.
    if (heads.kv % degrees.tensor == 0 || degrees.tensor % heads.kv == 0)
      ASSERT_EQ(kv, kv_heads_of(chunk, ranks, heads.kv));
    else
      ++only_chunks;
    // And plainly as tensor parallelism of degree P in the order of chunks.
    ASSERT_EQ(query, part({0, heads.query}, ranks, chunk));
    ASSERT_EQ(kv_heads_of(chunk, ranks, heads.kv), kv_part({0, heads.kv}, ranks, chunk));
    // In the order of ranks it would be wrong wherever both degrees exceed one.
    const int rank = place.s * degrees.tensor + place.t;
    if (query != part({0, heads.query}, ranks, rank)) ++moved;
    ++cases;
  });
  EXPECT_GT(cases, 1000);
  EXPECT_GT(moved, 100);
  EXPECT_LT(only_chunks, cases / 20);
}

TEST(Layout, RankOrderWouldMoveHeadsExactlyInMixedDegrees) {
  for (const Heads& heads : all_heads())
    for (const Degrees& degrees : legal_degrees(shape_of(heads), kMostRanks, false)) {
      bool moved = false;
      for (int rank = 0; rank < degrees.ranks(); ++rank)
        moved |= base_heads(heads, degrees, place_of(rank, degrees)) !=
                 part({0, heads.query}, degrees.ranks(), rank);
      ASSERT_EQ(moved, degrees.sequence > 1 && degrees.tensor > 1);
    }
}

TEST(Layout, ExampleOfThePaper) {  // SP=3, TP=2: shift ranks 0..5 are world ranks 0, 2, 4, 1, 3, 5
  const Degrees degrees{3, 2};
  std::vector<int> order(6);
  for (int rank = 0; rank < 6; ++rank)
    order[static_cast<std::size_t>(chunk_of(place_of(rank, degrees), degrees))] = rank;
  EXPECT_EQ(order, (std::vector<int>{0, 2, 4, 1, 3, 5}));
}

TEST(Layout, EveryQueryHeadFindsItsKvHeadAtHome) {
  for_each_rank(false, [](const Heads& heads, const Degrees& degrees, const Place& place) {
    const int ranks = degrees.ranks(), chunk = chunk_of(place, degrees);
    const Range query = heads_of(chunk, ranks, heads.query), kv = kv_heads_of(chunk, ranks, heads.kv);
    std::set<std::int64_t> used;
    for (std::int64_t head = query.begin; head < query.end; ++head)
      used.insert(head / (heads.query / heads.kv));
    ASSERT_EQ(*used.begin(), kv.begin);
    ASSERT_EQ(static_cast<std::int64_t>(used.size()), kv.size()) << "no KV head is held without use";
    ASSERT_EQ(*used.rbegin(), kv.end - 1);
  });
}

TEST(Layout, ChunksCoverHeadsOnceAndKvHeadsAsOftenAsNeeded) {
  for (const Heads& heads : all_heads())
    for (const Degrees& degrees : legal_degrees(shape_of(heads), kMostRanks, false)) {
      const int ranks = degrees.ranks();
      std::vector<int> query(static_cast<std::size_t>(heads.query)), kv(static_cast<std::size_t>(heads.kv));
      std::set<int> chunks;
      for (int rank = 0; rank < ranks; ++rank) {
        const int chunk = chunk_of(place_of(rank, degrees), degrees);
        chunks.insert(chunk);
        const Range q = heads_of(chunk, ranks, heads.query), k = kv_heads_of(chunk, ranks, heads.kv);
        for (std::int64_t i = q.begin; i < q.end; ++i) ++query[static_cast<std::size_t>(i)];
        for (std::int64_t i = k.begin; i < k.end; ++i) ++kv[static_cast<std::size_t>(i)];
      }
      ASSERT_EQ(static_cast<int>(chunks.size()), ranks);
      ASSERT_EQ(query, std::vector<int>(query.size(), 1));
      ASSERT_EQ(kv, std::vector<int>(kv.size(), std::max(1, ranks / heads.kv)));
    }
}

TEST(Layout, SlicesPartitionAndDifferByOneAtMost) {
  for (std::int64_t n = 0; n <= 200; ++n)
    for (int parts = 1; parts <= kMostRanks; ++parts) {
      std::int64_t at = 0;
      for (int i = 0; i < parts; ++i) {
        const Range slice = slice_of(n, parts, i);
        ASSERT_EQ(slice.begin, at);
        ASSERT_TRUE(slice.size() == n / parts || slice.size() == n / parts + 1);
        ASSERT_TRUE(i == 0 || slice.size() <= slice_of(n, parts, i - 1).size());
        at = slice.end;
      }
      ASSERT_EQ(at, n);
    }
}

TEST(Layout, VocabularyIsCutAtPanels) {
  for (const std::int64_t vocab : {1, 63, 64, 65, 1000, 32000, 128256, 151936, 152064, 151669})
    for (const std::int64_t unit : {1, 32, 64})
      for (int chunks = 1; chunks <= kMostRanks; ++chunks) {
        std::int64_t at = 0;
        for (int chunk = 0; chunk < chunks; ++chunk) {
          const Range rows = vocab_of(chunk, chunks, vocab, unit);
          ASSERT_EQ(rows.begin, at);
          ASSERT_LE(rows.begin, rows.end);
          ASSERT_TRUE(rows.end % unit == 0 || rows.end == vocab);
          ASSERT_LE(rows.size(), (vocab / chunks / unit + 2) * unit)
              << "no rank has much more than its share";
          at = rows.end;
        }
        ASSERT_EQ(at, vocab);
      }
}

// The shards of a rank in the shift layout are part of those of its weight shard in the base layout, and an
// aligned power of two of them: one subtree of the summation tree.
TEST(Layout, ReductionShardsNest) {
  for_each_rank(true, [](const Heads&, const Degrees& degrees, const Place& place) {
    const Range base = shards_of(place.t, degrees.tensor);
    const Range shift = shards_of(chunk_of(place, degrees), degrees.ranks());
    ASSERT_GE(shift.begin, base.begin);
    ASSERT_LE(shift.end, base.end);
    ASSERT_EQ(shift.begin % shift.size(), 0);
    ASSERT_EQ(shift.size() & (shift.size() - 1), 0);
  });
}

TEST(Layout, ReductionBoundsMeetTheBordersOfChunks) {
  for (const Heads& heads : all_heads())
    for (const int ranks : {1, 2, 4, 8}) {
      ModelShape shape = shape_of(heads);
      if (!is_legal(shape, {1, ranks}, true)) continue;
      const ReductionBounds attention = attention_bounds(shape);
      for (int chunk = 0; chunk < ranks; ++chunk) {
        const Range shards = shards_of(chunk, ranks), own = heads_of(chunk, ranks, heads.query);
        ASSERT_EQ(attention[static_cast<std::size_t>(shards.begin)], own.begin * shape.head_dim);
        ASSERT_EQ(attention[static_cast<std::size_t>(shards.end)], own.end * shape.head_dim);
      }
      for (const int columns : {32, 96, 1000, 4864, 8960, 11008, 14336, 18944}) {
        shape.intermediate = columns;
        const ReductionBounds mlp = mlp_bounds(shape);
        for (int chunk = 0; chunk <= ranks; ++chunk) {
          const std::int64_t border = mlp[static_cast<std::size_t>(chunk * kReductionShards / ranks)];
          ASSERT_TRUE(border % kMlpUnit == 0 || border == columns);
        }
      }
    }
}

TEST(Degrees, LegalOnesAreListedInOrder) {
  const auto list = [](const Heads& heads, int most, bool shifts) {
    std::string words;
    for (const Degrees& d : legal_degrees(shape_of(heads), most, shifts))
      words += fmt::format("{}x{} ", d.sequence, d.tensor);
    return words;
  };
  EXPECT_EQ(list({14, 2}, 16, true), "1x1 2x1 1x2 ");
  EXPECT_EQ(list({14, 2}, 16, false), "1x1 2x1 1x2 14x1 7x2 ");
  EXPECT_EQ(list({64, 8}, 16, true), "1x1 2x1 1x2 4x1 2x2 1x4 8x1 4x2 2x4 1x8 ");
  EXPECT_EQ(list({64, 8}, 16, false), "1x1 2x1 1x2 4x1 2x2 1x4 8x1 4x2 2x4 1x8 16x1 8x2 4x4 2x8 ");
  EXPECT_EQ(list({12, 12}, 8, false), "1x1 2x1 1x2 3x1 4x1 2x2 1x4 6x1 3x2 ");
  EXPECT_EQ(list({71, 1}, 16, true), "1x1 ");
}

TEST(Degrees, RefusalNamesTheConditionAndTheWayOut) {
  const auto refusal = [](const Heads& heads, const Degrees& degrees, bool shifts) -> std::string {
    try {
      check_degrees(shape_of(heads), degrees, shifts);
    } catch (const BadInput& error) {
      return error.what();
    }
    return "";
  };
  const auto has = [](const std::string& text, const char* words) { return text.find(words) != text.npos; };
  EXPECT_EQ(refusal({14, 2}, {2, 1}, true), "");
  const std::string heads = refusal({14, 2}, {2, 2}, true);
  EXPECT_TRUE(has(heads, "14 heads and 2 KV heads cannot be shared by 4 ranks (sequence 2 x tensor 2)"))
      << heads;
  EXPECT_TRUE(has(heads, "legal for this model: 1x1, 2x1, 1x2 (sequence x tensor)")) << heads;
  EXPECT_FALSE(has(heads, "never")) << heads;
  EXPECT_TRUE(has(refusal({24, 8}, {6, 1}, false), "24 heads and 8 KV heads cannot be shared by 6 ranks"));
  EXPECT_TRUE(has(refusal({12, 12}, {1, 3}, false), "tensor degree 3 does not divide the 8 shards"));
  const std::string shift = refusal({12, 12}, {3, 1}, true);
  EXPECT_TRUE(has(shift, "cannot shift") && has(shift, "shift = \"never\"")) << shift;
  EXPECT_EQ(refusal({12, 12}, {3, 1}, false), "");
  EXPECT_TRUE(has(refusal({12, 12}, {0, 4}, false), "at least 1"));
}

}  // namespace
}  // namespace nightshift::parallel
