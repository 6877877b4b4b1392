// SPDX-License-Identifier: Apache-2.0
#include "model/random.h"

#include <gtest/gtest.h>

#include <set>

namespace nightshift::model {
namespace {

// Known answers of philox4x32-10 as published with Random123 (Salmon et al. 2011).
static_assert(philox4x32({0, 0, 0, 0}, {0, 0}) ==
              PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
              PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
static_assert(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

TEST(Philox, KnownAnswersAtRunTimeToo) {
  volatile std::uint32_t zero = 0;
  EXPECT_EQ(philox4x32({zero, 0, 0, 0}, {0, zero}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

TEST(Uniform, IsInRangeAndEven) {
  constexpr int kCount = 100000, kBins = 10;
  std::array<int, kBins> bins{};
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const double u = uniform(42, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++bins[static_cast<std::size_t>(u * kBins)];
  }
  for (const int bin : bins) EXPECT_NEAR(bin, kCount / kBins, 500);  // five standard deviations
}

TEST(Uniform, DependsOnKeyAndPosition) {
  EXPECT_EQ(uniform(7, 3), uniform(7, 3));
  EXPECT_NE(uniform(7, 3), uniform(7, 4));
  EXPECT_NE(uniform(7, 3), uniform(8, 3));
}

TEST(RandomKey, SeparatesPromptsSamplesAndSeeds) {
  std::set<std::uint64_t> keys;
  for (std::uint64_t seed = 0; seed < 3; ++seed)
    for (std::uint64_t row = 0; row < 50; ++row)
      for (std::uint64_t sample = 0; sample < 4; ++sample)
        keys.insert(random_key(seed, std::nullopt, row, sample));
  EXPECT_EQ(keys.size(), 3u * 50u * 4u);
}

TEST(RandomKey, PromptSeedCountsAlone) {
  EXPECT_EQ(random_key(1, 5, 10, 0), random_key(2, 5, 11, 0));  // another job, another row
  EXPECT_NE(random_key(1, 5, 10, 0), random_key(1, 5, 10, 1));
  EXPECT_NE(random_key(1, 5, 10, 0), random_key(1, 6, 10, 0));
  EXPECT_NE(random_key(5, std::nullopt, 0, 0), random_key(1, 5, 10, 0));
}

}  // namespace
}  // namespace nightshift::model
