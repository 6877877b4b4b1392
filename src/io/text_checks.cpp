// SPDX-License-Identifier: Apache-2.0
#include "io/text_checks.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>

namespace nightshift::io {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Length of the well-formed sequence at the start of `s` (Unicode 15, table 3-7), 0 when there is none.
std::size_t sequence_length(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (s.size() < length) return 0;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  if (byte(1) < low || byte(1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

std::size_t ascii_run(std::string_view text, std::size_t at) {
  while (at + 8 <= text.size()) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + at, 8);
    if ((word & 0x8080808080808080u) != 0) break;
    at += 8;
  }
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) ++at;
  return at;
}

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

std::optional<std::size_t> invalid_utf8(std::string_view text) {
  for (std::size_t at = ascii_run(text, 0); at < text.size(); at = ascii_run(text, at)) {
    const std::size_t length = sequence_length(text.substr(at));
    if (length == 0) return at;
    at += length;
  }
  return std::nullopt;
}

std::string storable_text(std::string_view text) {
  if (text.find('\0') == std::string_view::npos && !invalid_utf8(text)) return std::string(text);
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = text[at] == '\0' ? 0 : sequence_length(text.substr(at));
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
