// SPDX-License-Identifier: Apache-2.0
#include "core/reduction.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace nightshift {
namespace {

TEST(ReductionBounds, KnownCuts) {
  EXPECT_EQ(reduction_bounds(64, 8), (ReductionBounds{0, 8, 16, 24, 32, 40, 48, 56, 64}));
  EXPECT_EQ(reduction_bounds(14, 1),
            (ReductionBounds{0, 2, 4, 6, 7, 9, 11, 13, 14}));  // Qwen2.5-0.5B's heads
  EXPECT_EQ(reduction_bounds(3, 1), (ReductionBounds{0, 1, 1, 2, 2, 3, 3, 3, 3}));
  EXPECT_EQ(reduction_bounds(70, 32),
            (ReductionBounds{0, 32, 32, 64, 64, 70, 70, 70, 70}));  // short last unit
}

TEST(ReductionBounds, AscendOnUnitBordersAndCoverEverything) {
  for (std::int64_t columns = 1; columns <= 700; columns += 3)
    for (const std::int64_t unit : {1, 2, 16, 32, 80}) {
      const ReductionBounds bounds = reduction_bounds(columns, unit);
      EXPECT_EQ(bounds.front(), 0);
      EXPECT_EQ(bounds.back(), columns);
      EXPECT_TRUE(std::is_sorted(bounds.begin(), bounds.end()));
      for (const std::int64_t bound : bounds) EXPECT_TRUE(bound % unit == 0 || bound == columns) << bound;
      std::int64_t largest = 0, smallest = columns;
      for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
        largest = std::max(largest, bounds[i + 1] - bounds[i]);
        smallest = std::min(smallest, bounds[i + 1] - bounds[i]);
      }
      EXPECT_LE(largest - smallest, 2 * unit);  // as even as whole units allow
    }
}

// The shards of each of P ranks begin and end where P equal parts do, whenever the units divide by P.
TEST(ReductionBounds, EqualPartsAreSubtrees) {
  for (std::int64_t units = 1; units <= 256; ++units)
    for (int ranks = 1; ranks <= kReductionShards && units % ranks == 0; ranks *= 2) {
      const ReductionBounds bounds = reduction_bounds(units * 16, 16);
      for (int rank = 0; rank <= ranks; ++rank)
        EXPECT_EQ(bounds[static_cast<std::size_t>(rank * kReductionShards / ranks)],
                  units * 16 / ranks * rank);
    }
}

TEST(ReductionBounds, OfAModel) {
  ModelShape shape;
  shape.heads = 14;
  shape.head_dim = 64;
  shape.intermediate = 4864;
  EXPECT_EQ(attention_bounds(shape)[1], 2 * 64);
  EXPECT_EQ(attention_bounds(shape).back(), 14 * 64);
  EXPECT_EQ(mlp_bounds(shape)[1], 19 * 32);
}

}  // namespace
}  // namespace nightshift
