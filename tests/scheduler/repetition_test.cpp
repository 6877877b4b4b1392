// SPDX-License-Identifier: Apache-2.0
#include "scheduler/repetition.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace nightshift::scheduler {
namespace {

using Tokens = std::vector<TokenId>;

TEST(Repetition, FindsCopiesAtTheEndOnly) {
  EXPECT_TRUE(ends_in_copies(Tokens{9, 1, 2, 1, 2, 1, 2}, 4, 3));
  EXPECT_TRUE(ends_in_copies(Tokens{5, 5, 5}, 1, 3));
  EXPECT_FALSE(ends_in_copies(Tokens{1, 2, 1, 2, 1, 2, 9}, 4, 3)) << "it has found a way out";
  EXPECT_FALSE(ends_in_copies(Tokens{1, 2, 1, 2}, 4, 3)) << "too few";
  EXPECT_FALSE(ends_in_copies(Tokens{1, 2, 3, 1, 2, 3}, 2, 2)) << "the piece is too long";
  EXPECT_TRUE(ends_in_copies(Tokens{1, 2, 3, 1, 2, 3}, 3, 2));
  EXPECT_FALSE(ends_in_copies(Tokens{}, 8, 2));
}

bool by_hand(const Tokens& output, std::size_t longest, std::size_t copies) {
  for (std::size_t piece = 1; piece <= longest; ++piece) {
    if (piece * copies > output.size()) continue;
    bool all = true;
    for (std::size_t i = output.size() - piece * copies; i < output.size() - piece; ++i)
      all = all && output[i] == output[i + piece];
    if (all) return true;
  }
  return false;
}

TEST(Repetition, IsItsDefinitionOnRandomAnswers) {
  std::mt19937 random(4);
  int found = 0;
  for (int round = 0; round < 20000; ++round) {
    Tokens output(random() % 14);
    for (TokenId& token : output) token = static_cast<TokenId>(random() % 2);
    const std::size_t longest = 1 + random() % 4, copies = 2 + random() % 3;
    EXPECT_EQ(ends_in_copies(output, longest, copies), by_hand(output, longest, copies));
    found += by_hand(output, longest, copies) ? 1 : 0;
  }
  EXPECT_GT(found, 1000);
}

}  // namespace
}  // namespace nightshift::scheduler
