// SPDX-License-Identifier: Apache-2.0
// Every test runs at 1, 2, 4 and 8 ranks.
#include "parallel/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "core/check.h"

namespace nightshift::parallel {
namespace {

TEST(Communicator, WordsTravelWhole) {
  const Communicator world = Communicator::world();
  std::string text = world.rank() == 0 ? std::string(70000, 'x') + std::string("\0end", 4) : "old";
  world.broadcast(text);
  EXPECT_EQ(text.size(), 70004u);
  const auto all = world.gather(
      std::string(static_cast<std::size_t>(world.rank()) * 3, static_cast<char>('a' + world.rank())));
  if (world.rank() == 0) {
    ASSERT_EQ(all.size(), static_cast<std::size_t>(world.size()));
    for (int r = 0; r < world.size(); ++r) {
      EXPECT_EQ(all[static_cast<std::size_t>(r)],
                std::string(static_cast<std::size_t>(r) * 3, static_cast<char>('a' + r)));
    }
  } else {
    EXPECT_TRUE(all.empty());
  }
}

TEST(Communicator, ReductionsAndHosts) {
  const Communicator world = Communicator::world();
  EXPECT_EQ(world.sum(world.rank() + 1.0), world.size() * (world.size() + 1) / 2.0);
  EXPECT_EQ(world.min(world.rank()), 0);
  EXPECT_EQ(world.max(world.rank()), world.size() - 1);
  EXPECT_EQ(world.host_size(), world.size());  // the tests run on one machine
  EXPECT_EQ(world.host_rank(), world.rank());
}

TEST(Communicator, SplitOrdersByKey) {
  const Communicator world = Communicator::world();
  const Communicator reversed = world.split(0, -world.rank());
  EXPECT_EQ(reversed.rank(), world.size() - 1 - world.rank());
  const Communicator alone = world.split(world.rank(), 0);
  EXPECT_EQ(alone.size(), 1);
}

TEST(CutUnits, CoverAllRowsOnceAndShrinkTowardsTheEnd) {
  for (const std::uint64_t rows : {0ull, 1ull, 7ull, 1000ull, 100000ull, 10000000ull}) {
    for (const int ranks : {1, 2, 8, 1024}) {
      const auto units = cut_units(rows, ranks, 4096, 1);
      std::uint64_t at = 0;
      std::uint64_t last = 4096;
      for (const Unit& unit : units) {
        ASSERT_EQ(unit.first, at);
        ASSERT_LE(unit.count, last);
        ASSERT_GE(unit.count, 1u);
        at += unit.count;
        last = unit.count;
      }
      ASSERT_EQ(at, rows);
      ASSERT_TRUE(units.empty() || units.back().count == 1u);
    }
  }
}

TEST(CutUnits, TableStaysSmall) {
  EXPECT_LT(cut_units(1000000000, 64, 4096).size(), 260000u);
}

TEST(ClaimOrder, CostliestFirstButSmallUnitsStayLast) {
  const std::vector<Unit> units{{0, 10}, {10, 10}, {20, 10}, {30, 2}, {32, 2}};
  const std::vector<std::uint64_t> costs{5, 9, 7, 100, 200};
  EXPECT_EQ(claim_order(units, costs), (std::vector<std::uint32_t>{1, 2, 0, 4, 3}));
  EXPECT_EQ(claim_order(units, {}), (std::vector<std::uint32_t>{0, 1, 2, 3, 4}));
}

TEST(WorkQueue, EveryUnitIsClaimedByExactlyOneRank) {
  const Communicator world = Communicator::world();
  const std::uint64_t units = 5000;
  std::string mine;
  {
    WorkQueue queue(world, units);
    while (const auto unit = queue.claim()) mine += std::to_string(*unit) + " ";
    EXPECT_FALSE(queue.claim().has_value());
  }
  const auto all = world.gather(mine);
  if (world.rank() != 0) return;
  std::vector<int> times(units);
  for (const std::string& list : all) {
    for (std::size_t at = 0; at < list.size(); at = list.find(' ', at) + 1)
      ++times.at(std::stoul(list.substr(at)));
  }
  EXPECT_EQ(std::count(times.begin(), times.end(), 1), static_cast<long>(units));
}

TEST(ProgressBoard, TotalsAreSumsOfTheLatestRows) {
  const Communicator world = Communicator::world();
  ProgressBoard board(world, 3);
  for (std::int64_t step = 1; step <= 100; ++step) {
    board.publish(std::vector<std::int64_t>{step, world.rank(), 1});
  }
  world.barrier();
  if (world.rank() == 0) {
    // Puts are complete at their origin; give the last ones time to arrive where the network is asynchronous.
    const std::int64_t n = world.size();
    std::vector<std::int64_t> totals;
    for (int tries = 0; tries < 1000 && (totals.empty() || totals[0] != 100 * n); ++tries)
      totals = board.totals();
    EXPECT_EQ(totals, (std::vector<std::int64_t>{100 * n, n * (n - 1) / 2, n}));
  }
  EXPECT_THROW(board.publish(std::vector<std::int64_t>{1}), Error);
}

// Rank 0 meets an error while the others wait for it elsewhere: it must get away with its error, because only
// main, above it, can end them. Freeing the queue here would wait for ever.
TEST(WorkQueue, AnErrorOfOneRankDoesNotWaitForTheOthers) {
  const Communicator world = Communicator::world();
  const auto failing = [&](bool late) {
    const Communicator own = Communicator::world();
    WorkQueue queue(own, 1);
    if (late) world.barrier();
    throw Error("the disk is full");
  };
  EXPECT_THROW(failing(world.rank() != 0), Error);
  if (world.rank() == 0) world.barrier();
}

}  // namespace
}  // namespace nightshift::parallel
