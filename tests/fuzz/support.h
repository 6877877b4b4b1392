// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets share. A target hands libFuzzer's bytes to one reader of outside bytes and lets
// nothing but success or nightshift's own Error pass: any other exception, a sanitizer's finding, a hang or
// an allocation beyond the limit ends the program, and libFuzzer keeps the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace nightshift::fuzz {

inline std::string_view as_text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// The parts of an input that stands for several texts; a line "====" is between them. Missing ones are empty.
std::vector<std::string_view> split_parts(std::string_view input, std::size_t count);

// Damaged bytes are to be refused with an Error that says what is wrong.
template <class Read>
void allow_errors(const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    NS_CHECK(!error.summary().empty());
  }
}

// What must not happen, whatever the input: aborts, so that it counts as a crash.
void expect(bool condition, const char* what);

// A folder of this process, gone when it ends. run.sh puts it into memory.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view bytes) const;
  void remove(const std::string& name) const;  // a file or a folder; fine if it is not there

 private:
  std::filesystem::path path_;
};

}  // namespace nightshift::fuzz
