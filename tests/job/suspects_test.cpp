// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/suspects.h"
#include "runtime/job/restarts.h"

#include <algorithm>
#include <iterator>

#include <random>

#include "io/files.h"
#include "job/support.h"
#include "runtime/job/in_work.h"
#include "runtime/job/restarts.h"

namespace nightshift::runtime {
namespace {

using Rows = std::set<PromptRow>;
constexpr int kTries = 3;

// A job whose ranks work on `width` rows at a time, answer them in any order, and die of a killer once it has
// been in work for a while, as `launch()` sees it.
class Simulation {
 public:
  Simulation(PromptRow rows, Rows killers, std::size_t width, unsigned seed)
      : rows_(rows), killers_(std::move(killers)), width_(width), random_(seed) {}

  // Until every row has an answer or is convicted; returns the number of failures, -1 when it never ends.
  int run() {
    int failures = 0;
    for (int start = 0; start < 1000; ++start) {
      const std::size_t left = rows_ - done_.size();
      if (left == 0) return failures;
      const bool rest_is_done = left <= suspects_.held().size();
      const Scope scope = suspects_.any() && rest_is_done ? suspects_.next() : suspects_.rest();
      const Rows dying = launch(scope);
      suspects_.acquit([&](PromptRow row) { return done_.contains(row); });
      if (dying.empty()) continue;
      ++failures;
      const auto verdict = suspects_.failed(scope, dying, kTries);
      if (verdict.culprit) {
        suspects_.convict(*verdict.culprit);
        convicted.insert(*verdict.culprit);
        done_.insert(*verdict.culprit);
      }
    }
    return -1;
  }

  Rows convicted;

 private:
  // What was in work when the ranks died; empty when they answered all of the scope.
  Rows launch(const Scope& scope) {
    Rows in_work;
    int patience = 5;
    for (PromptRow next = 0;;) {
      for (; in_work.size() < width_ && next < rows_; ++next) {
        if (scope.contains(next) && !done_.contains(next)) in_work.insert(next);
      }
      if (in_work.empty()) return {};
      const bool deadly =
          std::any_of(in_work.begin(), in_work.end(), [&](PromptRow r) { return killers_.contains(r); });
      auto row = std::next(in_work.begin(), static_cast<std::ptrdiff_t>(random_() % in_work.size()));
      if (deadly && (--patience < 0 || killers_.contains(*row))) return in_work;
      done_.insert(*row);
      in_work.erase(row);
    }
  }

  PromptRow rows_;
  Rows killers_, done_;
  std::size_t width_;
  std::mt19937 random_;
  Suspects suspects_;
};

TEST(Suspects, HalvingFindsExactlyTheKillersInFewFailures) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    Simulation job(500, {17, 211}, 64, seed);
    const int failures = job.run();
    EXPECT_EQ(job.convicted, (Rows{17, 211})) << seed;
    EXPECT_GT(failures, 0) << seed;
    EXPECT_LE(failures, 24) << seed;  // 2 x (2 + log2(64) + 3 tries), and 2 to spare
  }
}

TEST(Suspects, ManyKillersOneAfterTheOther) {
  Rows killers;
  for (PromptRow row = 0; row < 200; row += 25) killers.insert(row);
  for (unsigned seed = 0; seed < 10; ++seed) {
    Simulation job(200, killers, 16, seed);
    EXPECT_GT(job.run(), 0);
    EXPECT_EQ(job.convicted, killers) << seed;
  }
}

// Nothing was ever answered, so nobody is convicted, and the restarts come to an end.
TEST(Suspects, AMachineThatKillsEverythingIsGivenUp) {
  for (const PromptRow rows : {1, 2, 3, 8, 64, 300}) {
    Suspects suspects;
    RestartBudget budget(5);
    Rows all;
    for (PromptRow row = 0; row < rows; ++row) all.insert(row);
    int starts = 0;
    for (bool goes_on = true; goes_on && starts < 1000; ++starts) {
      const bool apart = suspects.held().size() == rows;
      const Scope scope = suspects.any() && apart ? suspects.next() : suspects.rest();
      const auto verdict = suspects.failed(scope, all, kTries);
      if (verdict.culprit) suspects.spare(*verdict.culprit);
      goes_on = budget.failed(false, scope.only && verdict.narrower).has_value();
    }
    EXPECT_LT(starts, 120) << rows;
  }
}

// The first row kills its ranks before any other is through: it is not convicted before the others have run.
TEST(Suspects, AKillerThatComesFirstIsFoundOnceOthersHaveAnswered) {
  Suspects suspects;
  suspects.failed({}, {0, 1}, kTries);
  suspects.failed({}, {0, 1}, kTries);
  Scope scope = suspects.next();
  suspects.failed(scope, {0, 1}, kTries);
  EXPECT_EQ(suspects.next().rows, Rows{0});
  EXPECT_EQ(suspects.failed(suspects.next(), {0}, kTries).culprit, PromptRow{0});
  suspects.spare(0);
  EXPECT_EQ(suspects.next().rows, Rows{1});
  suspects.acquit([](PromptRow row) { return row == 1; });
  EXPECT_EQ(suspects.next().rows, Rows{0});
  EXPECT_EQ(suspects.failed(suspects.next(), {0}, kTries).culprit, PromptRow{0});
}

TEST(Suspects, OneFailureHoldsNothingBack) {
  Suspects suspects;
  EXPECT_FALSE(suspects.failed({}, {1, 2, 3}, kTries).culprit);
  EXPECT_FALSE(suspects.any());
  EXPECT_TRUE(suspects.rest().whole());
}

TEST(Suspects, OnlyRowsInWorkAtTwoFailuresAreHeldBack) {
  Suspects suspects;
  suspects.failed({}, {1, 2, 3}, kTries);
  EXPECT_TRUE(suspects.failed({}, {3, 4}, kTries).narrower);
  EXPECT_EQ(suspects.held(), Rows{3});
  EXPECT_FALSE(suspects.rest().contains(3));
  EXPECT_TRUE(suspects.rest().contains(4));
  suspects.acquit([](PromptRow row) { return row == 3; });
  EXPECT_FALSE(suspects.any());
}

TEST(Suspects, NobodyIsConvictedOfAFailureWithoutHim) {
  Suspects suspects;
  suspects.failed({}, {5}, kTries);
  suspects.failed({}, {5}, kTries);
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(suspects.failed(suspects.next(), {}, kTries).culprit);
  EXPECT_EQ(suspects.failed(suspects.next(), {5}, kTries).culprit, PromptRow{5});
}

using Files = test::ScratchJob;

TEST_F(Files, SuspectsAndScopeOutliveTheLauncher) {
  Suspects before;
  before.failed({}, {3, 4, 9}, kTries);
  before.failed({}, {3, 4}, kTries);
  before.failed(before.next(), {3, 4}, kTries);
  before.save(dir_);
  Suspects after = Suspects::load(dir_);
  EXPECT_EQ(after.held(), (Rows{3, 4}));
  EXPECT_EQ(after.next().rows, Rows{3});
  EXPECT_EQ(after.failed(after.next(), {3}, kTries).culprit, PromptRow{3});

  EXPECT_TRUE(read_scope(dir_).whole());
  write_scope(dir_, {true, {7, 8}});
  EXPECT_TRUE(read_scope(dir_).only);
  EXPECT_EQ(read_scope(dir_).rows, (Rows{7, 8}));
  io::write_file_atomically((dir_ / "suspects.json").string(), "{\"failures\":");
  EXPECT_FALSE(Suspects::load(dir_).any());
}

TEST_F(Files, RowsInWorkAreKnownWhileTheirWriterLivesAndAfter) {
  {
    InWork first(dir_, 0), second(dir_, 12);
    first.reading(100, 3);
    const std::size_t slot = first.add(7);
    first.add(8);
    second.add(9);
    EXPECT_EQ(read_in_work(dir_), (Rows{7, 8, 9, 100, 101, 102}));
    first.remove(slot);
    first.reading(0, 0);
    EXPECT_EQ(first.add(10), slot) << "a free slot is used again";
  }
  EXPECT_EQ(read_in_work(dir_), (Rows{8, 9, 10}));
  remove_in_work(dir_);
  EXPECT_EQ(read_in_work(dir_), Rows{});
}

}  // namespace
}  // namespace nightshift::runtime
