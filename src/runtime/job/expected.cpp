// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/expected.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "core/check.h"
#include "core/text.h"
#include "io/text_column.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;

constexpr std::uint64_t kRowsPerRead = 4096;

struct Known {
  std::string text;
  bool answered = false;
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kWhite = " \t\r\n";
  const auto first = text.find_first_not_of(kWhite);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kWhite) - first + 1);
}

std::string kind_of(const std::string& id) {
  const auto dash = id.rfind('-');
  return dash == std::string::npos ? std::string() : id.substr(0, dash);
}

// Calls visit(id, text) for every row. Ids default to row numbers, as in any prompts file.
void for_each_row(const std::string& file, const char* id_name, const char* text_name,
                  const std::function<void(std::string&&, std::string&&)>& visit) {
  const io::TextColumn texts(file, text_name);
  std::optional<io::TextColumn> ids;
  if (io::TextColumn::exists(file, id_name)) ids.emplace(file, id_name);
  if (ids && ids->rows() != texts.rows()) {
    throw BadInput(
        fmt::format("{}: {} has {} rows, {} has {}", file, id_name, ids->rows(), text_name, texts.rows()));
  }
  for (std::uint64_t first = 0; first < texts.rows(); first += kRowsPerRead) {
    std::vector<std::string> text = texts.read(first, kRowsPerRead);
    std::vector<std::string> id =
        ids ? ids->read(first, kRowsPerRead) : std::vector<std::string>(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      visit(ids ? std::move(id[i]) : std::to_string(first + i), std::move(text[i]));
    }
  }
}

void count(Scores& scores, const std::string& id, bool right) {
  for (Score* score : {&scores.all, &scores.kinds[kind_of(id)]}) {
    ++score->total;
    score->right += right ? 1 : 0;
  }
}

}  // namespace

Scores score_answers(const std::filesystem::path& result, const std::filesystem::path& prompts) {
  std::unordered_map<std::string, Known> known;
  for_each_row(prompts.string(), "/prompts/id", "/expected/text", [&](std::string&& id, std::string&& text) {
    known.emplace(std::move(id), Known{std::move(text)});
  });
  Scores scores;
  for_each_row(result.string(), "/results/id", "/results/text", [&](std::string&& id, std::string&& text) {
    const auto found = known.find(id);
    if (found == known.end()) return;
    found->second.answered = true;
    count(scores, id, trimmed(text) == trimmed(found->second.text));
  });
  for (const auto& [id, expected] : known) {
    if (!expected.answered) count(scores, id, false);
  }
  return scores;
}

std::string to_text(const Scores& scores) {
  std::string text = "Right answers\n";
  const auto row = [&](const std::string& name, const Score& s) {
    text +=
        fmt::format("  {:<21}{:>7.2f} %  {:>9} of {}\n", name, 100.0 * s.share(),
                    format_count(static_cast<double>(s.right)), format_count(static_cast<double>(s.total)));
  };
  if (scores.kinds.size() > 1) {
    for (const auto& [kind, score] : scores.kinds) row(kind.empty() ? "(other)" : kind, score);
  }
  row("all", scores.all);
  return text;
}

std::string to_json(const Scores& scores) {
  const auto object = [](const Score& s) {
    return json{{"right", s.right}, {"total", s.total}, {"share", s.share()}};
  };
  json kinds = json::object();
  for (const auto& [kind, score] : scores.kinds) kinds[kind] = object(score);
  return json{{"all", object(scores.all)}, {"kinds", kinds}}.dump();
}

}  // namespace nightshift::runtime
