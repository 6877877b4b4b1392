// SPDX-License-Identifier: Apache-2.0
#include "model/files/json_object.h"

#include <cmath>
#include <fstream>

#include "core/check.h"

namespace nightshift::model {

namespace {

constexpr int kMaxDepth = 32;
constexpr std::uint64_t kMaxConfigBytes = 8u << 20;

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& file) {
  const auto guard = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxDepth) throw BadInput(fmt::format("{}: nested deeper than {} levels", file, kMaxDepth));
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), guard);
  } catch (const nlohmann::json::exception& e) {
    throw BadInput(fmt::format("{}: not valid JSON: {}", file, e.what()), "download the file again");
  }
}

std::string read_small_file(const std::filesystem::path& path, std::uint64_t limit) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error)
    throw BadInput(fmt::format("{}: {}", path.string(), error.message()),
                   "[model] path must name a Hugging Face model directory (config.json, *.safetensors)");
  if (size > limit)
    throw BadInput(
        fmt::format("{}: {} bytes, more than the {} expected at most", path.string(), size, limit));
  std::string text(size, '\0');
  std::ifstream in(path, std::ios::binary);
  in.read(text.data(), static_cast<std::streamsize>(size));
  if (!in) throw BadInput(fmt::format("{}: cannot be read", path.string()));
  return text;
}

JsonObject::JsonObject(nlohmann::json value, std::string file, std::string prefix)
    : value_(std::move(value)), file_(std::move(file)), prefix_(std::move(prefix)) {
  if (!value_.is_object())
    throw BadInput(fmt::format("{}: {} must be a JSON object", file_,
                               prefix_.empty() ? "the file" : '"' + prefix_ + '"'));
}

JsonObject JsonObject::read(const std::filesystem::path& path) {
  return JsonObject(parse_json(read_small_file(path, kMaxConfigBytes), path.string()), path.string());
}

std::string JsonObject::where(std::string_view key) const {
  return fmt::format("{}: \"{}{}{}\"", file_, prefix_, prefix_.empty() ? "" : ".", key);
}

void JsonObject::refuse(std::string_view key, const std::string& why, const std::string& remedy) const {
  throw BadInput(where(key) + " " + why, remedy);
}

bool JsonObject::has(std::string_view key) const {
  const auto it = value_.find(key);
  return it != value_.end() && !it->is_null();
}

bool JsonObject::contains(std::string_view key) const {
  return value_.contains(key);
}

std::vector<std::string> JsonObject::keys() const {
  std::vector<std::string> names;
  for (const auto& [key, value] : value_.items())
    if (!value.is_null()) names.push_back(key);
  return names;
}

const nlohmann::json& JsonObject::at(std::string_view key) const {
  if (!has(key)) refuse(key, "is missing");
  return *value_.find(key);
}

std::int64_t JsonObject::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  const auto& value = at(key);
  if (value.is_number_float() && std::abs(value.get<double>()) < 9e15 &&
      std::trunc(value.get<double>()) == value.get<double>())
    return JsonObject({{std::string(key), static_cast<std::int64_t>(value.get<double>())}}, file_, prefix_)
        .integer(key, low, high);
  if (!value.is_number_integer()) refuse(key, "must be an integer");
  const bool huge =
      value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX);
  const auto number = huge ? INT64_MAX : value.get<std::int64_t>();
  if (huge || number < low || number > high)
    refuse(key, fmt::format("is {}, expected {} to {}", value.dump(), low, high));
  return number;
}

std::int64_t JsonObject::integer(std::string_view key, std::int64_t low, std::int64_t high,
                                 std::int64_t fallback) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double JsonObject::number(std::string_view key, double low, double high) const {
  const auto& value = at(key);
  if (!value.is_number()) refuse(key, "must be a number");
  const auto number = value.get<double>();
  if (!(number >= low && number <= high))
    refuse(key, fmt::format("is {}, expected {} to {}", value.dump(), low, high));
  return number;
}

double JsonObject::number(std::string_view key, double low, double high, double fallback) const {
  return has(key) ? number(key, low, high) : fallback;
}

bool JsonObject::boolean(std::string_view key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_boolean()) refuse(key, "must be true or false");
  return at(key).get<bool>();
}

std::string JsonObject::text(std::string_view key, std::string fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_string()) refuse(key, "must be a string");
  return at(key).get<std::string>();
}

bool JsonObject::is_object(std::string_view key) const {
  return has(key) && at(key).is_object();
}

JsonObject JsonObject::object(std::string_view key) const {
  return JsonObject(at(key), file_, prefix_.empty() ? std::string(key) : prefix_ + "." + std::string(key));
}

std::vector<std::string> JsonObject::texts(std::string_view key, std::size_t limit) const {
  const auto& list = at(key);
  if (!list.is_array() || list.size() > limit)
    refuse(key, fmt::format("must be a list of at most {} strings", limit));
  std::vector<std::string> out;
  for (const auto& item : list) {
    if (!item.is_string()) refuse(key, "must be a list of strings");
    out.push_back(item.get<std::string>());
  }
  return out;
}

std::vector<std::int64_t> JsonObject::integers(std::string_view key, std::size_t limit) const {
  const auto& value = at(key);
  const nlohmann::json list = value.is_array() ? value : nlohmann::json::array({value});
  if (list.size() > limit) refuse(key, fmt::format("must be an integer or a list of at most {}", limit));
  std::vector<std::int64_t> out;
  for (const auto& item : list) {
    if (!item.is_number_integer() || item.get<double>() > 9e15)
      refuse(key, "must be an integer or a list of integers");
    out.push_back(item.get<std::int64_t>());
  }
  return out;
}

}  // namespace nightshift::model
