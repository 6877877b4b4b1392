// SPDX-License-Identifier: Apache-2.0
// Step times fitted to synthetic steps, and the decisions that follow, against formulas and brute force.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "core/check.h"
#include "parallel/layout/shift_policy.h"

namespace nightshift::parallel {
namespace {

constexpr int kTokens[] = {1, 8, 32, 64, 128, 256, 512, 1024, 2048};

double noise(std::mt19937_64& random, double share) {
  return 1.0 + share * (2.0 * static_cast<double>(random() >> 11) * 0x1p-53 - 1.0);
}

std::vector<StepSample> samples_of(const Calibration& truth, double noise_share, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<StepSample> samples;
  for (const int tokens : kTokens)
    for (const double context : {0.0, 512.0 * tokens, 4096.0 * tokens})
      for (const Layout layout : {Layout::base, Layout::shift}) {
        const StepTime& time = layout == Layout::base ? truth.base : truth.shift;
        samples.push_back(
            {layout, double(tokens), context, time(tokens, context) * noise(random, noise_share)});
      }
  return samples;
}

Calibration example() {
  return {.base = {14e-3, 20e-6, 1e-9}, .shift = {3e-3, 45e-6, 1e-9}, .most_tokens = 2048.0};
}

void expect_near(const StepTime& fitted, const StepTime& truth, double relative) {
  EXPECT_NEAR(fitted.fixed, truth.fixed, relative * truth.fixed);
  EXPECT_NEAR(fitted.per_token, truth.per_token, relative * truth.per_token);
  EXPECT_NEAR(fitted.per_key, truth.per_key, relative * truth.per_key);
}

TEST(Fit, FindsTheLinesThatMadeTheSteps) {
  const Calibration fitted = Calibration::fit(samples_of(example(), 0.0, 1));
  expect_near(fitted.base, example().base, 1e-9);
  expect_near(fitted.shift, example().shift, 1e-9);
  EXPECT_EQ(fitted.most_tokens, 2048.0);
  EXPECT_EQ(fitted.base.per_key, fitted.shift.per_key);
}

TEST(Fit, StandsNoise) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const Calibration fitted = Calibration::fit(samples_of(example(), 0.05, seed));
    for (const StepSample& s : samples_of(example(), 0.0, seed)) {
      const StepTime& time = s.layout == Layout::base ? fitted.base : fitted.shift;
      EXPECT_NEAR(time(s.tokens, s.context), s.seconds, 0.05 * s.seconds) << "seed " << seed;
    }
    EXPECT_NEAR(*fitted.crossover(), 440.0, 44.0) << "seed " << seed;
  }
}

// The conditions of Karush, Kuhn and Tucker say without knowing the method whether a solution is the best
// with no negative term: moving any term changes the error to first order only where the term is 0, and then
// for the worse.
TEST(Fit, IsTheBestWithoutNegativeTerms) {
  int at_zero = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<StepSample> samples;  // times that no line explains
    for (int i = 0; i < 12; ++i)
      samples.push_back({i % 2 == 0 ? Layout::base : Layout::shift, double(1 + random() % 1000),
                         double(random() % 100000), 1e-3 * double(1 + random() % 100)});
    const Calibration fitted = Calibration::fit(samples);
    for (const Layout layout : {Layout::base, Layout::shift}) {
      double slope_fixed = 0.0, slope_token = 0.0, slope_key = 0.0, scale = 0.0;
      for (const StepSample& s : samples) {
        const StepTime& time = s.layout == Layout::base ? fitted.base : fitted.shift;
        const double error = (time(s.tokens, s.context) - s.seconds) / s.seconds;
        slope_key += error * s.context / s.seconds;  // shared: over both layouts
        if (s.layout != layout) continue;
        slope_fixed += error / s.seconds;
        slope_token += error * s.tokens / s.seconds;
        scale += 1.0 / s.seconds;
      }
      const StepTime& time = layout == Layout::base ? fitted.base : fitted.shift;
      const auto check = [&](double value, double slope, double tolerance) {
        EXPECT_GE(value, 0.0);
        if (value > 0.0)
          EXPECT_NEAR(slope, 0.0, tolerance) << "seed " << seed;
        else
          EXPECT_GE(slope, -tolerance) << "seed " << seed;
        at_zero += value == 0.0;
      };
      check(time.fixed, slope_fixed, 1e-8 * scale);
      check(time.per_token, slope_token, 1e-8 * scale * 1000);
      check(time.per_key, slope_key, 1e-8 * scale * 1e5);
    }
  }
  EXPECT_GT(at_zero, 100) << "the cases must reach the bounds";
}

TEST(Fit, FewSamplesStillDecide) {
  const StepSample base{Layout::base, 100, 0, 0.010}, shift{Layout::shift, 100, 0, 0.005};
  const Calibration two = Calibration::fit(std::vector{base, shift});
  EXPECT_DOUBLE_EQ(two.base(100), 0.010);
  EXPECT_DOUBLE_EQ(two.shift(100), 0.005);
  EXPECT_EQ(two.crossover(), std::nullopt) << "nothing says that base would ever be faster";
  const StepSample wide_base{Layout::base, 1000, 0, 0.020}, wide_shift{Layout::shift, 1000, 0, 0.040};
  const Calibration four = Calibration::fit(std::vector{base, shift, wide_base, wide_shift});
  EXPECT_NEAR(*four.crossover(), 280.0, 1e-6);  // 10 + (n - 100) / 90 = 5 + 35 (n - 100) / 900
}

TEST(Fit, RefusesWhatIsNoMeasurement) {
  const StepSample base{Layout::base, 100, 0, 0.010}, shift{Layout::shift, 100, 0, 0.005};
  EXPECT_THROW(Calibration::fit({}), Error);
  EXPECT_THROW(Calibration::fit(std::vector{base, base}), Error);
  EXPECT_THROW(Calibration::fit(std::vector{shift}), Error);
  for (const StepSample& bad : {StepSample{Layout::base, 100, 0, 0.0},
                                {Layout::base, 100, 0, -1.0},
                                {Layout::base, 100, 0, NAN},
                                {Layout::base, 0, 0, 1.0},
                                {Layout::base, 100, -1, 1.0}})
    EXPECT_THROW(Calibration::fit(std::vector{base, shift, bad}), Error);
}

TEST(Crossover, OfEveryPairOfLines) {
  const auto crossover = [](StepTime base, StepTime shift) {
    return Calibration{.base = base, .shift = shift, .most_tokens = 1000.0}.crossover();
  };
  EXPECT_DOUBLE_EQ(*crossover({10, 1, 0}, {4, 3, 0}), 3.0);
  EXPECT_EQ(crossover({4, 1, 0}, {10, 3, 0}), 0.0) << "base wins everywhere";
  EXPECT_EQ(crossover({4, 1, 0}, {10, 1, 0}), 0.0);
  EXPECT_EQ(crossover({10, 3, 0}, {4, 1, 0}), std::nullopt) << "shift wins everywhere";
  EXPECT_EQ(crossover({10, 1, 0}, {4, 1, 0}), std::nullopt);
  EXPECT_EQ(crossover({4, 1, 0}, {4, 1, 0}), std::nullopt) << "no reason ever to change";
  EXPECT_EQ(crossover({4, 2, 0}, {10, 1, 0}), std::nullopt) << "crossed lines: shift wins wide steps";
  EXPECT_EQ(crossover({4, 1.001, 0}, {10, 1, 0}), 0.0) << "base wins up to the widest that was timed";
}

// The cost formulas of the Shift Parallelism paper's setting: SP reads every weight in a step, TP pays for
// compute and two ring all-reduces per layer.
struct Machine {
  const char* name;
  double weight_bytes, parameters, layers, hidden, flops;  // flops per GPU
  double threshold;                                        // by the first-order formula
  double reads() const { return weight_bytes / 4.8e12; }   // H200 memory
  double computes() const { return 2.0 * parameters / (kRanks * flops); }
  double reduces() const {  // bf16 activations at 450 GB/s
    return 2.0 * layers * 2.0 * (kRanks - 1) / kRanks * hidden * 2.0 / 450e9;
  }
  static constexpr double kRanks = 8;
};
constexpr Machine kMachines[] = {{"Llama-70B FP8", 70.6e9, 70.6e9, 80, 8192, 0.9e15, 493},
                                 {"Qwen-32B FP8", 32.8e9, 32.8e9, 64, 5120, 0.9e15, 481},
                                 {"8B BF16", 16.1e9, 8.03e9, 32, 4096, 0.6e15, 620}};

TEST(Crossover, IsThePublishedThreshold) {
  for (const Machine& m : kMachines) {
    std::mt19937_64 random(7);
    std::vector<StepSample> samples;
    for (const int n : kTokens) {
      samples.push_back({Layout::base, double(n), 0.0, m.reads() * noise(random, 0.02)});
      samples.push_back(
          {Layout::shift, double(n), 0.0, (m.computes() + m.reduces()) * n * noise(random, 0.02)});
    }
    EXPECT_NEAR(*Calibration::fit(samples).crossover(), m.threshold, 0.03 * m.threshold) << m.name;
  }
}

// Real steps bend: whichever of reading and computing takes longer counts. Lines through all of it cross half
// as high again; with 3 % of noise.
TEST(Crossover, OfBentStepTimes) {
  for (const Machine& m : kMachines)
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      std::mt19937_64 random(seed);
      std::vector<StepSample> samples;
      for (const int n : kTokens) {
        const double base = std::max(m.reads(), m.computes() * n);
        const double shift = std::max(m.reads() / m.kRanks, m.computes() * n) + m.reduces() * n;
        samples.push_back({Layout::base, double(n), 0.0, base * noise(random, 0.03)});
        samples.push_back({Layout::shift, double(n), 0.0, shift * noise(random, 0.03)});
      }
      Calibration fitted = Calibration::fit(samples);
      EXPECT_NEAR(*fitted.crossover(), m.threshold, 0.12 * m.threshold) << m.name << ", seed " << seed;
      fitted.crossing = 0.0;
      EXPECT_GT(*fitted.crossover(), 1.3 * m.threshold) << "the lines alone would do";
    }
}

// The lower of the two times: what a step costs when the policy chooses.
double step(const Calibration& c, double tokens) {
  return std::min(c.base(tokens), c.shift(tokens));
}

// Share of time that k steps save when `group` prefill tokens run in one of them, not in equal parts in all.
double saving(const Calibration& c, double decodes, double group, double k) {
  const double mixed = k * step(c, decodes + group / k);
  return 1.0 - ((k - 1) * step(c, decodes) + step(c, decodes + group)) / mixed;
}
double best_saving(const Calibration& c, double decodes, double group) {
  double best = 0.0;
  for (double k = 1.0; k <= group; k += 0.01) best = std::max(best, saving(c, decodes, group, k));
  return best;
}

TEST(PrefillGroupSize, SavesNineTenthsOfTheMostAndNoMore) {
  const Calibration c = example();  // crossover 440
  for (const int budget : {1024, 2048, 8192})
    for (const int decodes : {8, 64, 256}) {
      const double most = best_saving(c, decodes, budget - decodes);
      const int group = c.prefill_group(budget, decodes);
      if (group == 0) {
        EXPECT_LT(0.9 * most, 0.02);
        continue;
      }
      EXPECT_LE(group, budget - decodes);
      EXPECT_GE(best_saving(c, decodes, group), 0.02);
      EXPECT_NEAR(best_saving(c, decodes, group), 0.9 * most, 0.01 * most);
    }
}

TEST(PrefillGroupSize, NoneWhereNothingIsSaved) {
  const Calibration c = example();
  EXPECT_GT(c.prefill_group(2048, 64), 440 - 64);
  EXPECT_EQ(c.prefill_group(2048, 440), 0) << "decodes alone fill the base layout";
  EXPECT_EQ(c.prefill_group(440, 64), 0) << "no step reaches it";
  EXPECT_EQ((Calibration{.base = c.base, .shift = c.base}).prefill_group(2048, 64), 0);
  EXPECT_EQ((Calibration{.base = c.shift, .shift = c.base}).prefill_group(2048, 64), 0) << "never shifts";
  Calibration close = c;  // lines that hardly differ
  close.shift = {close.base.fixed * 0.99, close.base.per_token * 1.01, 0.0};
  EXPECT_EQ(close.prefill_group(4096, 64), 0);
}

TEST(Calibration, SurvivesJson) {
  const Calibration fitted = Calibration::fit(samples_of(example(), 0.05, 3));
  const Calibration read = Calibration::from_json(fitted.to_json());
  EXPECT_EQ(read.base(77, 1e5), fitted.base(77, 1e5)) << "to the last bit: ranks decide by it";
  EXPECT_EQ(read.crossover(), fitted.crossover());
  EXPECT_EQ(read.most_tokens, fitted.most_tokens);
  EXPECT_EQ(read.to_json(), fitted.to_json());
  for (const char* bad : {"", "{}", R"({"base": 1, "shift": 2})",
                          R"({"base":{"fixed":-1,"per_token":1,"per_key":0},)"
                          R"("shift":{"fixed":1,"per_token":1,"per_key":0},"most_tokens":1,"crossing":0})"})
    EXPECT_THROW(Calibration::from_json(bad), Error) << bad;
}

}  // namespace
}  // namespace nightshift::parallel
