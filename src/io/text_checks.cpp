// SPDX-License-Identifier: Apache-2.0
#include "io/text_checks.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace nightshift::io {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

std::string message_problem(const nlohmann::json& message, std::size_t number) {
  if (!message.is_object()) return fmt::format("message {} is not an object", number);
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) return fmt::format("message {} has no role", number);
  const auto content = message.find("content");
  const bool absent = content == message.end() || content->is_null();
  if (absent && !message.contains("tool_calls")) return fmt::format("message {} has no content", number);
  if (!absent && !content->is_string() && !content->is_array()) {
    return fmt::format("the content of message {} is neither text nor a list of parts", number);
  }
  return {};
}

}  // namespace

std::string storable_text(std::string_view text) {
  if (text.find('\0') == std::string_view::npos && !invalid_utf8(text)) return std::string(text);
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = text[at] == '\0' ? 0 : utf8_length(text.substr(at));
    out += length == 0 ? kReplacement : text.substr(at, length);
    at += length == 0 ? 1 : length;
  }
  return out;
}

std::string messages_problem(std::string_view text) {
  if (nests_deeper(text, kMaxJsonDepth)) return fmt::format("nested deeper than {} levels", kMaxJsonDepth);
  nlohmann::json messages;
  try {
    messages = nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    return fmt::format("not JSON at byte {}", error.byte);
  } catch (const nlohmann::json::out_of_range&) {
    return "holds a number beyond what a double can hold";
  }
  if (!messages.is_array()) return "not a JSON array of messages";
  if (messages.empty()) return "no messages";
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (std::string problem = message_problem(messages[i], i); !problem.empty()) return problem;
  }
  return {};
}

}  // namespace nightshift::io
