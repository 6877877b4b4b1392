// SPDX-License-Identifier: Apache-2.0
// Page-locked host memory on the way to the GPU: pageable memory would be copied by the driver, in pieces and
// with waits.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <mutex>

#include "kernels/kernels.h"

namespace nightshift::kernels::cuda {

Buffer host_memory(std::size_t bytes, const char* label);
Buffer device_memory(std::size_t bytes, const char* label);

// A ring of page-locked sections. What is copied into one stays untouched until the GPU has fetched it.
class Staging {
 public:
  explicit Staging(cudaStream_t stream) : stream_(stream) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Copies `bytes` of ordinary memory to the device, in the order of the stream; `host` may be reused on
  // return. Safe from several threads: weights are packed by several.
  void copy(void* device, const void* host, std::size_t bytes);

 private:
  static constexpr std::size_t kSectionBytes = std::size_t{4} << 20;
  static constexpr int kSections = 4;
  struct Section {
    Buffer memory;
    cudaEvent_t fetched = nullptr;
    std::size_t used = 0;
  };
  Section& with_room(std::size_t bytes);  // bytes <= kSectionBytes

  cudaStream_t stream_;
  std::mutex mutex_;
  std::array<Section, kSections> sections_;
  std::size_t current_ = 0;
};

}  // namespace nightshift::kernels::cuda
