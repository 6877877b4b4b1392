// SPDX-License-Identifier: Apache-2.0
#include "fuzz/support.h"

#include <stdlib.h>

#include <cstdio>
#include <fstream>

namespace nightshift::fuzz {

std::vector<std::string_view> split_parts(std::string_view input, std::size_t count) {
  constexpr std::string_view kBorder = "\n====\n";
  std::vector<std::string_view> parts;
  while (parts.size() + 1 < count) {
    const std::size_t border = input.find(kBorder);
    parts.push_back(input.substr(0, border));
    input.remove_prefix(border == std::string_view::npos ? input.size() : border + kBorder.size());
  }
  parts.push_back(input);
  return parts;
}

void expect(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fuzz target: %s\n", what);
  std::abort();
}

ScratchFolder::ScratchFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "nightshift-fuzz-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) throw Error("cannot make " + pattern, "set TMPDIR");
  path_ = pattern;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path ScratchFolder::write(const std::string& name, std::string_view bytes) const {
  std::ofstream out(path_ / name, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  expect(static_cast<bool>(out), "the scratch folder cannot be written (set TMPDIR to another place)");
  return path_ / name;
}

void ScratchFolder::remove(const std::string& name) const {
  std::error_code ignored;
  std::filesystem::remove_all(path_ / name, ignored);
}

}  // namespace nightshift::fuzz
