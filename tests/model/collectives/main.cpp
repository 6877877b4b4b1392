// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>

#include <sstream>

#include "core/check.h"
#include "model/collectives/support.h"
#include "model/over_world.h"
#include "nccl_on_host/nccl_on_host.h"

namespace nightshift::test {

const parallel::Communicator* test_world = nullptr;

namespace {

// The library that kernels/cuda has opened, or will.
template <class Function>
Function stand_in(const char* name) {
  void* library = ::dlopen(std::getenv("NIGHTSHIFT_NCCL_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
  NS_CHECK(library != nullptr, "{}", ::dlerror());
  return reinterpret_cast<Function>(::dlsym(library, name));
}

}  // namespace

std::vector<std::string> take_record() {
  static const auto take = stand_in<decltype(&nccl_on_host_take_record)>("nccl_on_host_take_record");
  std::string text;
  take(&text);
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

void make_nccl_fail() {
  constexpr int kRemoteError = 6;
  stand_in<decltype(&nccl_on_host_fail)>("nccl_on_host_fail")(kRemoteError);
}

bool nccl_has_all_to_all() {
  const char* version = std::getenv("NCCL_ON_HOST_VERSION");
  return version == nullptr || std::atoi(version) >= 22800;
}

}  // namespace nightshift::test

int main(int argc, char** argv) {
  ::setenv("NIGHTSHIFT_CUDA_LIBRARY", NIGHTSHIFT_SIMULATED_CUDA, 1);
  ::setenv("NIGHTSHIFT_NCCL_LIBRARY", NIGHTSHIFT_NCCL_ON_HOST, 1);
  ::setenv("NIGHTSHIFT_SIMULATED_GPUS", "8", 1);
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  return nightshift::test::run_over_world(argc, argv);
}
