// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/version.h"

#include <cstdlib>
#include <filesystem>

#include "git_revision.h"  // generated, see room.cmake

namespace nightshift::runtime {

const char* version() {
  return NIGHTSHIFT_VERSION;
}
const char* git_revision() {
  return NIGHTSHIFT_GIT_REVISION;
}
std::string backends() {
  return std::string(NIGHTSHIFT_BACKENDS) + (has_cuda_library() ? ", cuda" : "");
}

// The same places as kernels::gpu_count looks in; this program loads nothing.
bool has_cuda_library() {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (const char* named = std::getenv("NIGHTSHIFT_CUDA_LIBRARY"); named != nullptr && *named != '\0')
    return fs::exists(named, ignored);
  return fs::exists(fs::read_symlink("/proc/self/exe", ignored).parent_path() / "nightshift-cuda.so",
                    ignored);
}

}  // namespace nightshift::runtime
