// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/suspects.h"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/files.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kSuspectsFile = "suspects.json";
constexpr const char* kScopeFile = "scope.json";
constexpr int kHeldAfter = 2;  // failures: one may be the machine's

}  // namespace

std::string Scope::to_json() const {
  return json{{"only", only}, {"rows", rows}}.dump();
}

Scope Scope::from_json(const std::string& text) {
  const json in = json::parse(text);
  return {in.at("only"), in.at("rows").get<std::set<PromptRow>>()};
}

void write_scope(const fs::path& dir, const Scope& scope) {
  io::write_file_atomically((dir / kScopeFile).string(), scope.to_json());
}

Scope read_scope(const fs::path& dir) {
  std::ifstream file(dir / kScopeFile);
  if (!file) return {};
  try {
    return Scope::from_json(std::string(std::istreambuf_iterator<char>(file), {}));
  } catch (const json::exception& error) {
    throw Error(fmt::format("damaged {}: {}", (dir / kScopeFile).string(), error.what()),
                "start the job with `nightshift run`");
  }
}

Suspects::Verdict Suspects::failed(const Scope& scope, std::set<PromptRow> in_work, int tries) {
  std::erase_if(in_work, [&](PromptRow row) { return !scope.contains(row); });
  for (const PromptRow row : in_work) ++failures_[row];
  if (scope.only) return failed_apart(in_work, tries);
  Verdict verdict;
  for (const PromptRow row : in_work) {
    if (failures_[row] >= kHeldAfter) verdict.narrower |= held_.insert(row).second;
  }
  return verdict;
}

Suspects::Verdict Suspects::failed_apart(const std::set<PromptRow>& in_work, int tries) {
  if (in_work.empty()) return {};  // the ranks died of something else
  if (in_work.size() > 1) {
    focus_ = in_work;
    return {.culprit = {}, .narrower = true};
  }
  const PromptRow row = *in_work.begin();
  if (failures_[row] < tries) {
    focus_ = in_work;
    return {.culprit = {}, .narrower = true};
  }
  return {.culprit = row, .narrower = false};
}

void Suspects::convict(PromptRow row) {
  focus_.clear();
  held_.erase(row);
  failures_.erase(row);
}

void Suspects::spare(PromptRow row) {
  focus_ = held_;
  focus_.erase(row);
}

void Suspects::acquit(const std::function<bool(PromptRow)>& answered) {
  std::erase_if(failures_, [&](const auto& entry) { return answered(entry.first); });
  std::erase_if(held_, answered);
  std::erase_if(focus_, answered);
}

Scope Suspects::next() const {
  if (focus_.empty()) return {true, held_};
  const auto half = static_cast<std::ptrdiff_t>((focus_.size() + 1) / 2);
  return {true, {focus_.begin(), std::next(focus_.begin(), half)}};
}

void Suspects::save(const fs::path& dir) const {
  const json out{{"failures", failures_}, {"held", held_}, {"focus", focus_}};
  io::write_file_atomically((dir / kSuspectsFile).string(), out.dump(), false);
}

Suspects Suspects::load(const fs::path& dir) {
  Suspects out;
  try {
    std::ifstream file(dir / kSuspectsFile);
    if (!file) return out;
    const json in = json::parse(file);
    in.at("failures").get_to(out.failures_);
    in.at("held").get_to(out.held_);
    in.at("focus").get_to(out.focus_);
    return out;
  } catch (const json::exception&) {
    return {};
  }
}

}  // namespace nightshift::runtime
