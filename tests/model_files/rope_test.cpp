// SPDX-License-Identifier: Apache-2.0
// Frequencies against the published formulas, worked out by hand. (Agreement with transformers: tests/model.)
#include "model/files/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace nightshift::model {
namespace {

TEST(Rope, Standard) {
  const auto rope = rope_frequencies({.theta = 10000.0}, 8, 100);
  ASSERT_EQ(rope.inverse.size(), 4u);
  EXPECT_FLOAT_EQ(rope.inverse[0], 1.0F);
  EXPECT_FLOAT_EQ(rope.inverse[1], 0.1F);
  EXPECT_FLOAT_EQ(rope.inverse[3], 0.001F);
  EXPECT_EQ(rope.scale, 1.0F);
}

TEST(Rope, LinearDividesEveryFrequency) {
  RopeConfig config{.kind = RopeKind::linear};
  config.factor = 4.0;
  EXPECT_FLOAT_EQ(rope_frequencies(config, 8, 100).inverse[1], 0.025F);
}

TEST(Rope, DynamicFollowsTheJobsContextOnly) {
  RopeConfig config{.kind = RopeKind::dynamic};
  config.factor = 2.0;
  config.original_positions = 512;
  const RopeFrequencies standard = rope_frequencies({}, 64, 1);
  EXPECT_EQ(rope_frequencies(config, 64, 100).inverse, standard.inverse) << "short jobs: unchanged";
  EXPECT_EQ(rope_frequencies(config, 64, 512).inverse, standard.inverse);
  const double theta = 10000.0 * std::pow(2.0 * 1024 / 512 - 1.0, 64.0 / 62.0);
  EXPECT_FLOAT_EQ(rope_frequencies(config, 64, 1024).inverse[5],
                  static_cast<float>(std::pow(theta, -10.0 / 64)));
}

TEST(Rope, Llama3Bands) {
  RopeConfig config{.kind = RopeKind::llama3, .theta = 500000.0};
  config.factor = 8.0;
  config.original_positions = 8192;
  const auto plain = rope_frequencies({.theta = 500000.0}, 128, 1).inverse;
  const auto scaled = rope_frequencies(config, 128, 1).inverse;
  int kept = 0, divided = 0, blended = 0;
  for (std::size_t j = 0; j < plain.size(); ++j) {
    const double wavelength = 2 * std::numbers::pi / static_cast<double>(plain[j]);
    if (wavelength < 8192.0 / 4) {
      EXPECT_FLOAT_EQ(scaled[j], plain[j]);
      ++kept;
    } else if (wavelength > 8192.0) {
      EXPECT_FLOAT_EQ(scaled[j], plain[j] / 8);
      ++divided;
    } else {
      EXPECT_GT(scaled[j], plain[j] / 8);
      EXPECT_LT(scaled[j], plain[j]);
      ++blended;
    }
  }
  EXPECT_TRUE(kept > 0 && divided > 0 && blended > 0);
}

TEST(Rope, YarnKeepsFastAndStretchesSlowDimensions) {
  RopeConfig config{.kind = RopeKind::yarn};
  config.factor = 4.0;
  config.original_positions = 4096;
  const auto plain = rope_frequencies({}, 128, 1).inverse;
  const auto scaled = rope_frequencies(config, 128, 1);
  EXPECT_FLOAT_EQ(scaled.inverse.front(), plain.front());
  EXPECT_FLOAT_EQ(scaled.inverse.back(), plain.back() / 4);
  EXPECT_FLOAT_EQ(scaled.scale, static_cast<float>(0.1 * std::log(4.0) + 1.0));
  config.attention_factor = 1.5;
  EXPECT_FLOAT_EQ(rope_frequencies(config, 128, 1).scale, 1.5F);
  config.attention_factor = 0.0;
  config.mscale = config.mscale_all_dim = 0.7;
  EXPECT_FLOAT_EQ(rope_frequencies(config, 128, 1).scale, 1.0F);
}

}  // namespace
}  // namespace nightshift::model
