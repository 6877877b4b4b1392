// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/heartbeat.h"

#include <chrono>
#include <thread>

#include "job/support.h"
#include "runtime/job/restarts.h"

namespace nightshift::runtime {
namespace {

constexpr double kHang = 100.0, kPeriod = 5.0;

// A launcher that looks every period; `change` sets the beats of each look.
std::optional<HangWatch::Silent> look_for(HangWatch& watch, std::map<int, Beat>& beats, double from,
                                          double to, const std::function<void()>& change) {
  for (double now = from; now < to; now += kPeriod) {
    change();
    if (const auto silent = watch.look(beats, now)) return silent;
  }
  return std::nullopt;
}

TEST(HangWatch, AWorkingRankThatStandsStillIsNamedAndOthersDoNotHelpIt) {
  HangWatch watch(kHang, 0);
  std::map<int, Beat> beats{{0, {1, true, "a"}}, {1, {1, true, "b"}}};
  const auto silent = look_for(watch, beats, 0, 1000, [&] { ++beats[0].count; });
  ASSERT_TRUE(silent);
  EXPECT_EQ(silent->rank, 1);
  EXPECT_EQ(silent->host, "b");
  EXPECT_NEAR(silent->seconds, kHang, kPeriod);
}

TEST(HangWatch, RanksThatWaitForOthersAreNoAlarm) {
  HangWatch watch(kHang, 0);
  std::map<int, Beat> beats{{0, {1, false, "a"}}, {1, {1, false, "a"}}};
  EXPECT_FALSE(look_for(watch, beats, 0, 1000, [&] { ++beats[0].count; }));
  const auto silent = look_for(watch, beats, 1000, 2000, [] {});
  ASSERT_TRUE(silent) << "all of them wait";
  EXPECT_EQ(silent->rank, 1) << "the one that fell silent first";
}

TEST(HangWatch, StartingAndLoadingMayTakeAMinuteWhateverTheLimit) {
  HangWatch watch(3, 0);
  std::map<int, Beat> beats;
  for (double now = 0; now < 55; now += 0.3) EXPECT_FALSE(watch.look(beats, now));
  beats[0] = {1, false, "a"};
  for (double now = 55; now < 110; now += 0.3) EXPECT_FALSE(watch.look(beats, now));
  beats[0] = {2, true, "a"};
  double now = 110;
  while (now < 200 && !watch.look(beats, now)) now += 0.3;
  EXPECT_NEAR(now, 113, 0.7);
}

TEST(HangWatch, SlowStepsThatGetOnAreNoAlarm) {
  HangWatch watch(kHang, 0);
  std::map<int, Beat> beats{{0, {1, true, "a"}}};
  int look = 0;
  EXPECT_FALSE(look_for(watch, beats, 0, 5000, [&] { beats[0].count += ++look % 15 == 0; }));
}

TEST(HangWatch, RanksThatNeverSpeakAreAnAlarm) {
  HangWatch watch(kHang, 0);
  std::map<int, Beat> beats;
  const auto silent = look_for(watch, beats, 0, 1000, [] {});
  ASSERT_TRUE(silent);
  EXPECT_EQ(silent->rank, -1);
}

TEST(HangWatch, TimeInWhichNobodyLookedDoesNotCount) {
  HangWatch watch(kHang, 0);
  std::map<int, Beat> beats{{0, {1, true, "a"}}};
  EXPECT_FALSE(watch.look(beats, 5));
  EXPECT_FALSE(watch.look(beats, 100'000)) << "suspended, ranks and launcher alike";
  EXPECT_FALSE(look_for(watch, beats, 100'005, 100'050, [] {}));
  EXPECT_TRUE(look_for(watch, beats, 100'050, 100'200, [] {}));
}

TEST(HangWatch, ZeroSecondsNeverAlarm) {
  HangWatch watch(0, 0);
  std::map<int, Beat> beats{{0, {1, true, "a"}}};
  EXPECT_FALSE(look_for(watch, beats, 0, 100'000, [] {}));
}

using Beats = test::ScratchJob;

TEST_F(Beats, AreReadWhileTheRankLivesAndStayWhereItStopped) {
  const auto beat_of = [&](int rank) { return read_beats(dir_).at(rank); };
  const auto wait_for = [&](auto&& condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return condition();
  };
  {
    Heartbeat heartbeat(dir_, 3, 0.01);
    ASSERT_TRUE(wait_for([&] { return read_beats(dir_).contains(3); }));
    EXPECT_FALSE(beat_of(3).working);
    EXPECT_FALSE(beat_of(3).host.empty());
    const std::uint64_t before = beat_of(3).count;
    heartbeat.working(true);
    for (int i = 0; i < 5; ++i) heartbeat.beat();
    EXPECT_TRUE(wait_for([&] { return beat_of(3).working && beat_of(3).count == before + 5; }));
  }
  EXPECT_EQ(read_beats(dir_).size(), 1u);
  remove_beats(dir_);
  EXPECT_TRUE(read_beats(dir_).empty());
}

TEST(RestartBudget, PausesDoubleUpToAMinuteAndProgressBeginsAnew) {
  RestartBudget budget(8);
  for (const double pause : {1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0})
    EXPECT_EQ(budget.failed(false, false), pause);
  EXPECT_EQ(budget.failed(false, false), std::nullopt);
  EXPECT_EQ(budget.failed(true, false), 1.0);
  EXPECT_EQ(budget.failed(false, false), 2.0);
  EXPECT_EQ(RestartBudget(0).failed(true, false), std::nullopt);
}

// Where a machine kills whatever runs on it, the search narrows for ever.
TEST(RestartBudget, ASearchWithoutAnAnswerComesToAnEnd) {
  RestartBudget budget(5);
  const auto starts = [&] {
    int count = 0;
    while (count < 1000 && budget.failed(count == 0, true)) ++count;
    return count;
  };
  EXPECT_GT(starts(), 40) << "a search among thousands of rows for several of them must fit in";
  EXPECT_LT(starts(), 100);
}

TEST(Restarts, AreForFailuresThatNeedNotComeAgain) {
  EXPECT_TRUE(worth_restarting(137, false));
  EXPECT_TRUE(worth_restarting(139, true));
  EXPECT_TRUE(worth_restarting(1, true));
  EXPECT_FALSE(worth_restarting(1, false)) << "an error while loading comes again";
  for (const int code : {2, 74, 75, 126, 127}) EXPECT_FALSE(worth_restarting(code, true)) << code;
}

}  // namespace
}  // namespace nightshift::runtime
