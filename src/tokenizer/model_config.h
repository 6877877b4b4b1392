// SPDX-License-Identifier: Apache-2.0
// The small files beside tokenizer.json: tokenizer_config.json and special_tokens_map.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "tokenizer/json_fields.h"

namespace nightshift::tokenizer {

// Whole file; BadInput naming it if it cannot be read.
std::string read_file(const std::filesystem::path& path);

Json parse_json(std::string_view text, const std::filesystem::path& path);  // BadInput naming path and byte

// tokenizer_config.json with what special_tokens_map.json adds to it; an empty object if neither is there.
Json read_model_config(const std::filesystem::path& model_dir);

// Name -> text of the special tokens ("bos_token", "eos_token", ...); a token is written as a string or as an
// object.
Json special_token_texts(const Json& config);

// 64 bits of FNV-1a over everything added, as 16 hex digits: tells files apart, is no protection against
// malice.
class Digest {
 public:
  void add(std::string_view bytes);
  std::string hex() const;

 private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

}  // namespace nightshift::tokenizer
