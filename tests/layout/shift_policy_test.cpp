// SPDX-License-Identifier: Apache-2.0
#include "parallel/layout/shift_policy.h"

#include <gtest/gtest.h>

#include "core/check.h"

namespace nightshift::parallel {
namespace {

constexpr Degrees kSp2{.sequence = 2, .tensor = 1};
constexpr Degrees kSp2Tp2{.sequence = 2, .tensor = 2};

Calibration crossing_at(double tokens) {
  return {.base = {1.0 + tokens, 1.0, 0.0}, .shift = {1.0, 2.0, 0.0}, .most_tokens = 2048.0};
}

Layout choose(ShiftPolicy& policy, int tokens, bool tail = false) {
  BatchPlan plan;
  plan.query_tokens = tokens;
  plan.tail = tail;
  return policy.choose(plan);
}

TEST(ShiftPolicy, NeverAndAlways) {
  for (const int tokens : {1, 500, 100000}) {
    for (const bool tail : {false, true}) {
      ShiftPolicy never("never", kSp2Tp2), always("always", kSp2Tp2);
      EXPECT_EQ(choose(never, tokens, tail), Layout::base);
      EXPECT_EQ(choose(always, tokens, tail), Layout::shift);
      EXPECT_EQ(never.threshold(), std::nullopt);
      EXPECT_EQ(always.threshold(), std::nullopt);
    }
  }
}

TEST(ShiftPolicy, ANumberIsExact) {
  ShiftPolicy policy("256", kSp2);
  EXPECT_EQ(policy.threshold(), 256.0);
  for (const bool tail : {false, true}) {
    EXPECT_EQ(choose(policy, 257, tail), Layout::base);
    EXPECT_EQ(choose(policy, 256, tail), Layout::shift) << "whatever came before";
    EXPECT_EQ(choose(policy, 257, tail), Layout::base);
    EXPECT_EQ(choose(policy, 1, tail), Layout::shift);
  }
  ShiftPolicy zero("0", kSp2);
  EXPECT_EQ(choose(zero, 1), Layout::base);
}

TEST(ShiftPolicy, AnAutomaticThresholdHasABand) {
  ShiftPolicy policy("auto", kSp2, crossing_at(200));
  EXPECT_EQ(policy.threshold(), 200.0);
  EXPECT_EQ(choose(policy, 200), Layout::base) << "the first choice";
  EXPECT_EQ(choose(policy, 180), Layout::base);
  EXPECT_EQ(choose(policy, 179), Layout::shift);
  EXPECT_EQ(choose(policy, 180), Layout::shift);
  EXPECT_EQ(choose(policy, 220), Layout::shift);
  EXPECT_EQ(choose(policy, 221), Layout::base);
  EXPECT_EQ(choose(policy, 220), Layout::base);
}

TEST(ShiftPolicy, TheTailHasNone) {
  ShiftPolicy policy("auto", kSp2, crossing_at(200));
  EXPECT_EQ(choose(policy, 201, true), Layout::base);
  EXPECT_EQ(choose(policy, 200, true), Layout::shift);
  EXPECT_EQ(choose(policy, 201, true), Layout::base);
  EXPECT_EQ(choose(policy, 199, false), Layout::base) << "the band is back with prefill";
}

TEST(ShiftPolicy, AutomaticWithoutACrossing) {
  ShiftPolicy base("auto", kSp2, crossing_at(0)),
      shift("auto", kSp2, Calibration{.base = {2, 1, 0}, .shift = {1, 1, 0}});
  for (const int tokens : {1, 100000}) {
    EXPECT_EQ(choose(base, tokens), Layout::base);
    EXPECT_EQ(choose(shift, tokens), Layout::shift);
  }
  EXPECT_EQ(base.threshold(), std::nullopt);
  EXPECT_EQ(shift.threshold(), std::nullopt);
}

TEST(ShiftPolicy, RandomIsAFunctionOfSeedAndStep) {
  const auto pattern = [](const char* setting, bool backwards) {
    ShiftPolicy policy(setting, kSp2);
    std::string layouts(1000, ' ');
    for (std::size_t i = 0; i < layouts.size(); ++i) {
      BatchPlan plan;
      plan.step = backwards ? layouts.size() - 1 - i : i;
      plan.query_tokens = static_cast<int>(i);
      layouts[plan.step] = policy.choose(plan) == Layout::base ? 'b' : 's';
    }
    return layouts;
  };
  const std::string one = pattern("random:1", false);
  EXPECT_EQ(one, pattern("random:1", true));
  EXPECT_NE(one, pattern("random:2", false));
  const auto count = [&one](const char* what) {
    int found = 0;
    for (std::size_t at = 0; (at = one.find(what, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  EXPECT_NEAR(count("s"), 500, 60);  // four standard deviations
  for (const char* pair : {"bs", "sb", "bb", "ss"}) EXPECT_NEAR(count(pair), 250, 55) << pair;
}

TEST(ShiftPolicy, OneThingUnderTwoNamesIsNeverShifted) {
  for (const Degrees degrees : {Degrees{1, 1}, Degrees{1, 4}})
    for (const char* setting : {"auto", "never", "always", "256", "random:3"}) {
      ShiftPolicy policy(setting, degrees);
      for (const int tokens : {1, 256, 257}) EXPECT_EQ(choose(policy, tokens), Layout::base);
      EXPECT_FALSE(setting_shifts(setting, degrees)) << setting;
    }
}

TEST(ShiftPolicy, SaysWhetherItMayShift) {
  for (const char* setting : {"auto", "always", "1", "256", "random:0"})
    for (const Degrees degrees : {kSp2, kSp2Tp2}) EXPECT_TRUE(setting_shifts(setting, degrees)) << setting;
  for (const char* setting : {"never", "0"}) EXPECT_FALSE(setting_shifts(setting, kSp2)) << setting;
}

TEST(ShiftPolicy, RefusesOtherSettings) {
  for (const char* bad : {"", "Auto", "sometimes", "-1", "12.5", "12 ", " 12", "0x10", "random",
                          "random:", "random:-1", "random:x", "99999999999999999999999"}) {
    EXPECT_THROW(ShiftPolicy(bad, kSp2, crossing_at(200)), BadInput) << bad;
    EXPECT_THROW(ShiftPolicy(bad, Degrees{}), BadInput) << bad << ": also where nothing would shift";
    EXPECT_THROW(setting_shifts(bad, kSp2), BadInput) << bad;
  }
  EXPECT_THROW(ShiftPolicy("auto", kSp2), BadInput) << "needs step times";
}

TEST(ShiftPolicy, DescribesItself) {
  const auto text = [](const char* setting, Degrees degrees, std::optional<Calibration> c = {}) {
    return ShiftPolicy(setting, degrees, c).describe();
  };
  EXPECT_EQ(text("auto", kSp2, crossing_at(212)), "auto: base above 212 tokens (+-10 %)");
  EXPECT_EQ(text("auto", kSp2, crossing_at(0)), "auto: base in every step (by the times measured)");
  EXPECT_EQ(text("256", kSp2), "256: base above 256 tokens");
  EXPECT_EQ(text("never", kSp2), "never: base in every step");
  EXPECT_EQ(text("always", kSp2), "always: shift in every step");
  EXPECT_EQ(text("random:7", kSp2), "random:7: either layout, by step number");
  EXPECT_EQ(text("always", Degrees{1, 2}),
            "always: base in every step (sequence degree 1: the layouts are the same)");
}

}  // namespace
}  // namespace nightshift::parallel
