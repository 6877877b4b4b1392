// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target over the files of folders, once each, with any compiler: ctest proves that every seed
// and every input that once crashed is dealt with. Usage: fuzz_<target> FOLDER...
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "fuzz/support.h"

namespace {

std::vector<std::filesystem::path> files_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

void replay(const std::filesystem::path& file) {
  std::fprintf(stderr, "%s\n", file.c_str());  // the last line of a crash tells the input
  std::ifstream in(file, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t done = 0;
  for (int i = 1; i < argc; ++i) {
    for (const std::filesystem::path& file : files_of(argv[i])) {
      replay(file);
      ++done;
    }
  }
  std::printf("%zu inputs\n", done);
  return done > 0 ? 0 : 1;  // an empty corpus proves nothing
}
