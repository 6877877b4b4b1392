// SPDX-License-Identifier: Apache-2.0
// Answers against known ones: /results/text with /expected/text of a prompts file, by id.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

namespace nightshift::runtime {

struct Score {
  std::uint64_t right = 0;
  std::uint64_t total = 0;
  double share() const { return total == 0 ? 0.0 : static_cast<double>(right) / static_cast<double>(total); }
};

struct Scores {
  std::map<std::string, Score> kinds;  // by the id up to its last '-'; "" for ids without one
  Score all;
};

// Every row of `prompts` that has an expected text (an empty one counts too) must be in the result; one that
// is not counts as wrong, and with several samples each counts. A text is right when it is the expected one
// without regard to white space at both ends. BadInput when a file or column is missing.
Scores score_answers(const std::filesystem::path& result, const std::filesystem::path& prompts);

std::string to_text(const Scores& scores);
std::string to_json(const Scores& scores);

}  // namespace nightshift::runtime
