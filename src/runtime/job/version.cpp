// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/version.h"

#include "git_revision.h"  // generated, see room.cmake

namespace nightshift::runtime {

const char* version() {
  return NIGHTSHIFT_VERSION;
}
const char* git_revision() {
  return NIGHTSHIFT_GIT_REVISION;
}
const char* compiled_backends() {
  return NIGHTSHIFT_BACKENDS;
}
bool compiled_with_cuda() {
#ifdef NIGHTSHIFT_HAS_CUDA
  return true;
#else
  return false;
#endif
}

}  // namespace nightshift::runtime
