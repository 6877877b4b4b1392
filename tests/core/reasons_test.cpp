// SPDX-License-Identifier: Apache-2.0
#include "core/reasons.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace nightshift {
namespace {

// The rows of the table under "Failed rows" in the manual: a table row begins with "| reason |".
std::vector<std::vector<std::string>> documented() {
  std::ifstream in(NIGHTSHIFT_SOURCE_DIR "/docs/operations.md");
  std::vector<std::vector<std::string>> rows;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("## ")) inside = line == "## Failed rows";
    if (!inside || !line.starts_with("| ") || line.starts_with("| reason ")) continue;
    std::vector<std::string> cells;
    std::istringstream cut(line.substr(2));
    for (std::string cell; std::getline(cut, cell, '|');) {
      cell.erase(cell.find_last_not_of(' ') + 1);
      cell.erase(0, cell.find_first_not_of(' '));
      cells.push_back(cell);
    }
    rows.push_back(cells);
  }
  return rows;
}

TEST(Reasons, TheManualsTableIsTheOneInTheCode) {
  const auto rows = documented();
  const auto reasons = failure_reasons();
  ASSERT_EQ(rows.size(), reasons.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(rows[i].size(), 4u) << rows[i][0];
    EXPECT_EQ(rows[i][0], reasons[i].name);
    EXPECT_EQ(rows[i][1], reasons[i].meaning) << reasons[i].name;
    EXPECT_FALSE(rows[i][2].empty()) << "a remedy for " << reasons[i].name;
    EXPECT_EQ(rows[i][3], reasons[i].retryable ? "yes" : "no") << reasons[i].name;
  }
}

// Every literal in the program that looks like the beginning of an error of a row.
TEST(Reasons, TheProgramGivesNoOthers) {
  const std::regex literal("\"((?:bad|too|nan|empty|invalid)_[a-z]+|timeout|crashed): ");
  std::set<std::string> given;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(NIGHTSHIFT_SOURCE_DIR "/src")) {
    if (entry.path().extension() != ".cpp") continue;
    std::ifstream in(entry.path());
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    for (std::sregex_iterator it(text.begin(), text.end(), literal), end; it != end; ++it)
      given.insert((*it)[1]);
  }
  EXPECT_GE(given.size(), 9u) << "the pattern finds what there is";
  for (const std::string& name : given) {
    EXPECT_TRUE(std::any_of(failure_reasons().begin(), failure_reasons().end(),
                            [&](const FailureReason& reason) { return reason.name == name; }))
        << name << " is not in src/core/reasons.cpp";
  }
}

TEST(Reasons, AreInOrderAndEachStandsOnce) {
  const auto reasons = failure_reasons();
  for (std::size_t i = 1; i < reasons.size(); ++i) EXPECT_LT(reasons[i - 1].name, reasons[i].name);
}

TEST(Reasons, AreReadFromAnError) {
  EXPECT_EQ(reason_of("timeout: 12 tokens in 3 s"), "timeout");
  EXPECT_EQ(reason_of("timeout"), "timeout");
  EXPECT_TRUE(is_retryable("timeout: 12 tokens in 3 s"));
  EXPECT_TRUE(is_retryable("crashed: 3 times"));
  EXPECT_FALSE(is_retryable("too_long: 9000 > 8192 tokens"));
  EXPECT_FALSE(is_retryable("a new one: of a later version"));
  EXPECT_FALSE(is_retryable(""));
}

}  // namespace
}  // namespace nightshift
