// SPDX-License-Identifier: Apache-2.0
// Syntax tree of the patterns that the scan engine takes.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/code_set.h"

namespace nightshift::tokenizer {

inline constexpr std::uint32_t kUnbounded = std::numeric_limits<std::uint32_t>::max();

struct PatternItem;
using PatternSequence = std::vector<PatternItem>;

struct PatternItem {
  enum Kind { set, group, look_ahead } kind = set;
  CodeSet characters;                         // set
  std::vector<PatternSequence> alternatives;  // group, look_ahead
  bool negated = false;                       // look_ahead
  std::uint32_t min = 1, max = 1;             // set: any; group: {1,1} or {0,1}
  bool possessive = false;
};

// The alternatives of a pattern, or nothing if it uses more than sets with greedy or possessive repeats,
// groups that are repeated at most once, case-insensitive ASCII and look-ahead.
std::optional<std::vector<PatternSequence>> parse_pattern(const std::string& regex);

}  // namespace nightshift::tokenizer
