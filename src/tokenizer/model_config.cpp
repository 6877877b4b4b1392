// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/model_config.h"

#include <fstream>
#include <sstream>

#include "core/text.h"

namespace nightshift::tokenizer {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in.is_open() || in.bad()) throw BadInput(fmt::format("{}: cannot be read", path.string()));
  return std::move(text).str();
}

Json parse_json(std::string_view text, const std::filesystem::path& path) {
  if (nests_deeper(text, kMaxJsonDepth)) {
    throw BadInput(fmt::format("{}: nested deeper than {} levels", path.string(), kMaxJsonDepth),
                   "fetch the file again");
  }
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& e) {
    throw BadInput(fmt::format("{}: is not valid JSON at byte {}", path.string(), e.byte),
                   "fetch the file again");
  } catch (const Json::out_of_range&) {
    throw BadInput(fmt::format("{}: holds a number beyond what a double can hold", path.string()),
                   "fetch the file again");
  }
}

Json read_model_config(const std::filesystem::path& model_dir) {
  Json config = Json::object();
  // Where the two disagree, tokenizer_config.json wins, as it does in transformers.
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    const auto path = model_dir / name;
    if (!std::filesystem::exists(path)) continue;
    const Json part = parse_json(read_file(path), path);
    if (!part.is_object()) throw BadInput(fmt::format("{}: is not a JSON object", path.string()));
    config.update(part);
  }
  return config;
}

Json special_token_texts(const Json& config) {
  Json texts = Json::object();
  for (const auto& [name, value] : config.items()) {
    if (!name.ends_with("_token")) continue;
    if (value.is_string()) texts[name] = value;
    if (value.is_object() && value.contains("content")) texts[name] = value["content"];
  }
  return texts;
}

void Digest::add(std::string_view bytes) {
  for (const char byte : bytes) state_ = (state_ ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
}

std::string Digest::hex() const {
  return fmt::format("{:016x}", state_);
}

}  // namespace nightshift::tokenizer
