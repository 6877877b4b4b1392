// SPDX-License-Identifier: Apache-2.0
// A simulated machine with a GPU for every rank, NCCL's stand-in between them, and doors to both.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "parallel/parallel.h"

namespace nightshift::test {

extern const parallel::Communicator* test_world;

// The calls into NCCL since the last look, one a line (nccl_on_host.h).
std::vector<std::string> take_record();
// The communicators of this process have failed, as NCCL says it asynchronously.
void make_nccl_fail();

// NCCL 2.28 and later; NCCL_ON_HOST_VERSION says otherwise in one of the runs.
bool nccl_has_all_to_all();

// An environment variable, until the end of the scope.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name); old != nullptr) old_ = old;
    ::setenv(name, value.c_str(), 1);
  }
  ~Setting() { old_.empty() ? ::unsetenv(name_) : ::setenv(name_, old_.c_str(), 1); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
  std::string old_;
};

// This rank's GPU, or the first one for all.
inline std::unique_ptr<kernels::Backend> gpu_of(int number, const char* kernels = "cuda") {
  return kernels::make_backend(
      {.device = kernels::Device::cuda, .gpu = number, .strict = true, .kernels = kernels});
}

// Memory of a device with this content.
template <class T>
kernels::Buffer on_device(kernels::Backend& backend, const std::vector<T>& content) {
  kernels::Buffer buffer = backend.allocate(content.size() * sizeof(T) + 1, "test::device");
  backend.copy_to_device(buffer.data(), content.data(), content.size() * sizeof(T));
  return buffer;
}
template <class T>
std::vector<T> on_host(kernels::Backend& backend, const kernels::Buffer& buffer, std::size_t count) {
  std::vector<T> content(count);
  backend.copy_to_host(content.data(), buffer.data(), count * sizeof(T));
  return content;
}

}  // namespace nightshift::test
