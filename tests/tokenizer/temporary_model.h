// SPDX-License-Identifier: Apache-2.0
// A model directory for one test.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "tokenizer/tokenizer.h"

namespace nightshift::tokenizer {

using Json = nlohmann::json;

inline std::filesystem::path source_dir() {
  return NIGHTSHIFT_SOURCE_DIR;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

class TemporaryModel {
 public:
  explicit TemporaryModel(const Json& tokenizer = nullptr) {
    static int counter = 0;
    path_ = std::filesystem::temp_directory_path() / fmt::format("tokenizer_test_{}_{}", getpid(), counter++);
    std::filesystem::create_directories(path_);
    if (!tokenizer.is_null()) write("tokenizer.json", tokenizer.dump());
  }
  ~TemporaryModel() { std::filesystem::remove_all(path_); }
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;

  void write(const std::filesystem::path& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  const std::filesystem::path& path() const { return path_; }
  Tokenizer load() const { return Tokenizer::load(path_); }

 private:
  std::filesystem::path path_;
};

}  // namespace nightshift::tokenizer
