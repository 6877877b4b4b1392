// SPDX-License-Identifier: Apache-2.0
// One JSON object of a model directory, read with suspicion: every value is fetched with its type and range,
// and every complaint names the file and the key. A key that holds null counts as absent, as Hugging Face
// treats it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nightshift::model {

// Parses `text`; refuses nesting deeper than any model file has (a hostile file could otherwise exhaust
// memory).
nlohmann::json parse_json(std::string_view text, const std::string& file);

// Whole file as a string. Throws BadInput when it is missing, unreadable or larger than `limit` bytes.
std::string read_small_file(const std::filesystem::path& path, std::uint64_t limit);

class JsonObject {
 public:
  JsonObject(nlohmann::json value, std::string file, std::string prefix = {});
  static JsonObject read(const std::filesystem::path& path);

  bool has(std::string_view key) const;       // present and not null
  bool contains(std::string_view key) const;  // present, be it null
  std::vector<std::string> keys() const;

  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const;
  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high,
                       std::int64_t fallback) const;
  double number(std::string_view key, double low, double high) const;
  double number(std::string_view key, double low, double high, double fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string text(std::string_view key, std::string fallback) const;
  bool is_object(std::string_view key) const;
  JsonObject object(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key, std::size_t limit) const;  // a list of strings
  std::vector<std::int64_t> integers(std::string_view key,
                                     std::size_t limit) const;  // an integer or a list of them

  const std::string& file() const { return file_; }
  std::string where(std::string_view key) const;  // config.json: "rope_scaling.factor"
  [[noreturn]] void refuse(std::string_view key, const std::string& why,
                           const std::string& remedy = {}) const;
  bool operator==(const JsonObject& other) const { return value_ == other.value_; }

 private:
  const nlohmann::json& at(std::string_view key) const;

  nlohmann::json value_;
  std::string file_;
  std::string prefix_;  // keys above this object, with dots
};

// The RoPE settings of a (text) configuration, old or new schema. `max_positions`: max_position_embeddings.
struct RopeConfig;
RopeConfig read_rope(const JsonObject& json, int max_positions);

}  // namespace nightshift::model
