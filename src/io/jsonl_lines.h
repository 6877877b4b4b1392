// SPDX-License-Identifier: Apache-2.0
// What the converters share: the words of the OpenAI batch form, and JSONL output that appears when it is
// complete.
#pragma once

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/check.h"
#include "io/files.h"

namespace nightshift::io {

using Json = nlohmann::ordered_json;  // keeps the order of keys as the user wrote them

inline constexpr std::string_view kChatUrl = "/v1/chat/completions";
inline constexpr std::string_view kTextUrl = "/v1/completions";
inline constexpr std::string_view kExtraColumn = "/prompts/extra";  // {"body": {...}, "line": {...}}
inline constexpr std::string_view kJsonColumn = "/params/json";

// Body fields that leave the answer as it is; they wait in /prompts/extra for the way back.
inline constexpr std::array<std::string_view, 8> kBesideTheAnswer{
    "model",           "user", "metadata", "store", "service_tier", "safety_identifier", "stream_options",
    "prompt_cache_key"};

class JsonlWriter {
 public:
  explicit JsonlWriter(const std::string& path) : file_(path), out_(file_.path(), std::ios::binary) {
    check();
  }

  // Bytes that are not UTF-8 become U+FFFD: a JSON text cannot hold them.
  void write(const Json& line) {
    out_ << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
    check();
    ++lines_;
  }

  std::uint64_t commit() {
    out_.close();
    check();
    file_.commit();
    return lines_;
  }

 private:
  void check() {
    if (!out_) throw_system_error("cannot write " + file_.path(), errno);
  }

  TemporaryFile file_;
  std::ofstream out_;
  std::uint64_t lines_ = 0;
};

}  // namespace nightshift::io
