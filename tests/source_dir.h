// SPDX-License-Identifier: Apache-2.0
// Where the tests find inputs and goldens: the source tree of the build, or the one that a carried build came
// with.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace nightshift {

inline std::filesystem::path source_dir() {
  const char* carried = std::getenv("NIGHTSHIFT_SOURCE");
  return carried != nullptr ? carried : NIGHTSHIFT_SOURCE_DIR;
}

}  // namespace nightshift
