// SPDX-License-Identifier: Apache-2.0
// The two engines must find the same matches wherever both can run a pattern.
#include "tokenizer/pattern.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "temporary_model.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

std::vector<std::pair<std::size_t, std::size_t>> matches(const Pattern& pattern, std::string_view text) {
  std::vector<std::pair<std::size_t, std::size_t>> found;
  MatchWalk walk(pattern, text);
  for (Span span{}; walk.next(span);) found.emplace_back(span.begin, span.end);
  return found;
}

std::vector<std::string> patterns_in_use() {
  std::vector<std::string> patterns;
  const std::function<void(const Json&)> collect = [&](const Json& node) {
    if (node.is_object() && node.contains("Regex")) patterns.push_back(node["Regex"]);
    if (node.is_structured()) {
      for (const auto& child : node) collect(child);
    }
  };
  const Json families = Json::parse(read_text(source_dir() / "tests/tokenizer/goldens/families.json"));
  for (const auto& family : families) collect(family.at("tokenizer"));
  return patterns;
}

TEST(Pattern, BothEnginesAgree) {
  const std::vector<std::string> strings =
      Json::parse(read_text(source_dir() / "tests/tokenizer/goldens/strings.json"));
  int compared = 0;
  for (const auto& regex : patterns_in_use()) {
    const auto scan = compile_scan_pattern(regex);
    if (!scan || regex.find("[^(\\s|[") != std::string::npos) continue;  // PCRE2 has no classes in classes
    const auto pcre2 = compile_pcre2_pattern(regex);
    for (const auto& text : strings)
      ASSERT_EQ(matches(*scan, text), matches(*pcre2, text)) << regex << "\n" << text;
    ++compared;
  }
  EXPECT_GE(compared, 12);
}

TEST(Pattern, BothEnginesHaveTheSameSets) {
  std::string all;
  for (std::uint32_t c = 0; c < 0x110000; ++c) {
    if (c < 0xD800 || c >= 0xE000) append_utf8(all, c);
  }
  for (const char* set :
       {"\\w+", "\\W+", "\\s+", "\\S+", "\\d+", "\\p{L}+", "[\\p{P}\\p{S}]+", "[^\\p{M}\\p{N}\\s]+", ".+"}) {
    const auto scan = compile_scan_pattern(set);
    ASSERT_NE(scan, nullptr);
    EXPECT_EQ(matches(*scan, all), matches(*compile_pcre2_pattern(set), all)) << set;
  }
}

TEST(Pattern, TheFrequentOnesRunInTheScanEngine) {
  int others = 0;
  for (const auto& regex : patterns_in_use()) others += compile_scan_pattern(regex) == nullptr;
  EXPECT_EQ(others, 2) << "only cl100k's $ and the test's own clusters need PCRE2";
}

using Spans = std::vector<std::pair<std::size_t, std::size_t>>;

TEST(Pattern, OnigurumasMeaning) {
  const std::map<std::pair<std::string, std::string>, Spans> cases = {
      {{"a{1,2}+", "aaaaa"}, {{0, 5}}},                        // a repeat of the repeat, not possessive
      {{"[a-c&&[^b]]+", "abca"}, {{0, 1}, {2, 4}}},            // intersection
      {{"(?i:'s)", "'S'\u017F's"}, {{0, 2}, {2, 5}, {5, 7}}},  // long s
      {{"\\s", "\x1c \u0085\u180e\u200b"}, {{1, 2}, {2, 4}}},  // White_Space and nothing else
      {{"x*", "axb"}, {{0, 0}, {1, 2}, {3, 3}}},  // empty matches, none right behind another match
      {{"a|ab", "ab"}, {{0, 1}}},                 // first alternative, not the longest
      {{"\\s+(?!\\S)|\\s", "   x"}, {{0, 2}, {2, 3}}},
      {{"\\h{2}\\b", "zff f0."}, {{1, 3}, {4, 6}}},  // hexadecimal digits; PCRE2's own \h are blanks
      {{"\\w+", "a\u00b3\u2167\u2460\u24b6\u200d"},
       {{0, 6}, {9, 12}}},  // superscripts of Latin-1, but not circled digits
      {{".$", "ab\nc\n"}, {{1, 2}, {3, 4}}},
      {{"(?<=\\d)x", "1x x"}, {{1, 2}}},
      {{"\\p{L}+", "a\U00010D50\U0001E4D0b"}, {{0, 10}}},  // letters newer than many PCRE2 libraries
  };
  for (const auto& [key, expected] : cases) {
    EXPECT_EQ(matches(*Pattern::compile(key.first), key.second), expected) << key.first;
  }
  EXPECT_EQ(matches(*compile_pcre2_pattern("\\p{L}+"), "a\U00010D50\U0001E4D0b"), (Spans{{0, 10}}));
  EXPECT_EQ(matches(*compile_pcre2_pattern("\\s"), "\x1c \u0085\u180e\u200b"), (Spans{{1, 2}, {2, 4}}));
}

TEST(Pattern, WhatNeitherEngineKnowsIsRefused) {
  for (const char* regex :
       {"(?~ab)", "\\R", "(a", "[[a]&&[b]](?=(?<n>x)+)\\g<n>", "a(?i)b|c", "\\p{NoSuchThing}"}) {
    EXPECT_THROW(Pattern::compile(regex), BadInput) << regex;
  }
}

TEST(Nfc, ComposesOrdersAndLeavesTheRestAlone) {
  const std::pair<std::string, std::string> cases[] = {
      {"e\u0301", "\u00e9"},
      {"a\u0301\u0323", "\u1ea1\u0301"},   // reordered, then composed
      {"\u1100\u1161\u11a8x", "\uac01x"},  // Hangul
      {"\u212b \u2126", "\u00c5 \u03a9"},
      {"\u0958", "\u0915\u093c"},                        // excluded from composition
      {"\U00011935\U00011930", "\U00011935\U00011930"},  // newer than the reference's table
      {"plain", "plain"},
      {"\u0301\u0301", "\u0301\u0301"},
      {"", ""},
  };
  for (auto [text, expected] : cases) {
    normalize_nfc(text);
    EXPECT_EQ(text, expected);
  }
}

}  // namespace
}  // namespace nightshift::tokenizer
