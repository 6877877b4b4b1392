// SPDX-License-Identifier: Apache-2.0
// A model directory, opened and checked, and what people want to know of it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "model/files/model_files.h"
#include "tokenizer/tokenizer.h"

namespace nightshift::cli {

struct ModelFacts {
  model::ModelFiles files;
  tokenizer::Tokenizer tokenizer;
  tokenizer::ChatTemplate chat;

  std::int64_t parameters() const { return model::parameter_count(files.weights); }
  // Names model, tokenizer and template: two directories with equal digests answer alike.
  std::string digest() const;
};

// BadInput naming the file that is missing, broken or of a kind that is not supported.
ModelFacts read_model_facts(const std::filesystem::path& directory, const std::string& chat_template);

std::string to_text(const ModelFacts& facts);
std::string to_json(const ModelFacts& facts);

}  // namespace nightshift::cli
