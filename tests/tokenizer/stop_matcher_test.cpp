// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>

#include "tokenizer/tokenizer.h"

namespace nightshift::tokenizer {
namespace {

struct Outcome {
  std::string text;
  int matched;
  bool operator==(const Outcome&) const = default;
};

// The text cut into the given pieces and sent through a matcher.
Outcome feed(const std::vector<std::string>& stop, const std::vector<std::string>& pieces) {
  StopMatcher matcher(stop);
  std::string out;
  for (const auto& piece : pieces) out += matcher.push(piece);
  out += matcher.finish();
  return {out, matcher.matched()};
}

TEST(StopMatcher, CutsAcrossPieces) {
  EXPECT_EQ(feed({"END"}, {"the E", "N", "D of it"}), (Outcome{"the ", 0}));
  EXPECT_EQ(feed({"END"}, {"the E", "N", "d of it"}), (Outcome{"the ENd of it", -1}));
  EXPECT_EQ(feed({"\n\n", "###"}, {"a\n", "##", "#\n\n"}), (Outcome{"a\n", 1}));
}

TEST(StopMatcher, TheOneCompleteFirstWins) {
  EXPECT_EQ(feed({"abcd", "bc"}, {"xa", "bcd"}), (Outcome{"xa", 1}));
  EXPECT_EQ(feed({"c", "abc"}, {"xabc"}), (Outcome{"x", 1}));
  EXPECT_EQ(feed({"aab"}, {"a", "a", "a", "b"}), (Outcome{"a", 0}));
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBeAStop) {
  StopMatcher matcher({"</s>"});
  EXPECT_EQ(matcher.push("a<"), "a");
  EXPECT_EQ(matcher.push("b"), "<b");
  EXPECT_EQ(matcher.push("</s"), "");
  EXPECT_FALSE(matcher.stopped());
  EXPECT_EQ(matcher.push(">tail"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("more"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, EmptyStopStringIsRefused) {
  EXPECT_THROW(StopMatcher({"a", ""}), BadInput);
}

// Reference: the stop string whose end comes first in the whole text.
Outcome whole_text(const std::vector<std::string>& stop, const std::string& text) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t begin = std::string::npos;
    int matched = -1;
    for (std::size_t i = 0; i < stop.size(); ++i) {
      const std::string prefix = text.substr(0, end);
      if (prefix.ends_with(stop[i]) && end - stop[i].size() < begin)
        begin = end - stop[i].size(), matched = static_cast<int>(i);
    }
    if (matched >= 0) return {text.substr(0, begin), matched};
  }
  return {text, -1};
}

TEST(StopMatcher, PiecesDoNotMatter) {
  std::mt19937 random(7);
  const auto letters = [&](std::size_t least, std::size_t most) {
    std::string s(least + random() % (most - least + 1), 'a');
    for (char& c : s) c = static_cast<char>('a' + random() % 3);
    return s;
  };
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stop;
    for (auto n = 1 + random() % 3; n > 0; --n) stop.push_back(letters(1, 5));
    std::vector<std::string> pieces;
    std::string text;
    for (auto n = random() % 8; n > 0; --n) text += pieces.emplace_back(letters(0, 4));
    ASSERT_EQ(feed(stop, pieces), whole_text(stop, text)) << text;
  }
}

}  // namespace
}  // namespace nightshift::tokenizer
