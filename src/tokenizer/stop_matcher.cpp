// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "tokenizer/tokenizer.h"

namespace nightshift::tokenizer {
namespace {

// Where the end of `text` begins to look like the beginning of a stop string; text.size() if it does not.
std::size_t open_end(std::string_view text, const std::vector<std::string>& stop) {
  std::size_t longest = 0;
  for (const auto& s : stop) longest = std::max(longest, s.size());
  for (std::size_t at = text.size() - std::min(text.size(), longest); at < text.size(); ++at) {
    const auto tail = text.substr(at);
    if (std::any_of(stop.begin(), stop.end(), [&](const std::string& s) { return s.starts_with(tail); }))
      return at;
  }
  return text.size();
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stop) : stop_(std::move(stop)) {
  for (const auto& s : stop_) {
    if (s.empty()) throw BadInput("a stop string is empty", "remove it: it would stop every answer at once");
  }
}

std::string StopMatcher::push(std::string_view text) {
  if (stopped()) return {};
  if (stop_.empty()) return std::string(text);
  held_ += text;
  std::size_t begin = std::string::npos, end = std::string::npos;
  for (std::size_t i = 0; i < stop_.size(); ++i) {
    const std::size_t at = held_.find(stop_[i]);
    if (at == std::string::npos) continue;
    const std::size_t behind = at + stop_[i].size();
    if (behind > end || (behind == end && at >= begin)) continue;
    begin = at, end = behind, matched_ = static_cast<int>(i);
  }
  std::string out = held_.substr(0, stopped() ? begin : open_end(held_, stop_));
  held_.erase(0, stopped() ? std::string::npos : out.size());
  return out;
}

std::string StopMatcher::finish() {
  return std::exchange(held_, {});
}

}  // namespace nightshift::tokenizer
