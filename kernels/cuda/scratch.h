// SPDX-License-Identifier: Apache-2.0
// Device memory that grows with the largest step so far. Growing waits for the GPU; recorded launches
// (graphs.h) that know the old place are void from then on.
#pragma once

#include <algorithm>
#include <span>

#include "kernels/cuda/staging.h"

namespace nightshift::kernels::cuda {

class GrowingMemory {
 public:
  GrowingMemory(cudaStream_t stream, const char* label) : stream_(stream), label_(label) {}

  void* reserve(std::size_t bytes);
  std::size_t bytes() const { return buffer_.bytes(); }
  int growths() const { return growths_; }

 private:
  cudaStream_t stream_;
  const char* label_;
  Buffer buffer_;
  int growths_ = 0;
};

// What a step is told, as one piece: every write replaces the one before, in the order of the stream.
class StepMemory {
 public:
  StepMemory(cudaStream_t stream, Staging& staging) : memory_(stream, "kernels::batch"), staging_(staging) {}

  const std::byte* write(std::span<const std::byte> bytes) {
    // Block lists grow with every step: room for twice as much, or every other step would wait for new
    // memory.
    constexpr std::size_t kLeast = std::size_t{1} << 20;
    if (bytes.size() > memory_.bytes()) memory_.reserve(std::max(2 * bytes.size(), kLeast));
    auto* const device = static_cast<std::byte*>(memory_.reserve(bytes.size()));
    staging_.copy(device, bytes.data(), bytes.size());
    ++writes_;
    return device;
  }
  std::uint64_t writes() const { return writes_; }
  int growths() const { return memory_.growths(); }

 private:
  GrowingMemory memory_;
  Staging& staging_;
  std::uint64_t writes_ = 0;
};

}  // namespace nightshift::kernels::cuda
