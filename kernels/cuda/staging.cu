// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/runtime.h"

namespace nightshift::kernels::cuda {

Buffer host_memory(std::size_t bytes, const char* label) {
  if (bytes == 0) return {};
  void* data = nullptr;
  check(cudaHostAlloc(&data, bytes, cudaHostAllocDefault),
        fmt::format("{} ({:.1f} MiB of page-locked host memory)", label,
                    static_cast<double>(bytes) / (1 << 20)));
  return {data, bytes, Device::cpu, label, [](void* memory, std::size_t) { cudaFreeHost(memory); }};
}

Staging::~Staging() {
  for (Section& section : sections_)
    if (section.fetched != nullptr) cudaEventDestroy(section.fetched);
}

Staging::Section& Staging::with_room(std::size_t bytes) {
  constexpr std::size_t kAlignment = 64;
  Section* section = &sections_[current_];
  section->used = (section->used + kAlignment - 1) / kAlignment * kAlignment;
  if (section->memory.bytes() > 0 && section->used + bytes <= kSectionBytes) return *section;
  if (section->memory.bytes() > 0) {  // full: the next one, once the GPU has fetched what it held
    check(cudaEventRecord(section->fetched, stream_), "staging");
    current_ = (current_ + 1) % kSections;
    section = &sections_[current_];
  }
  if (section->memory.bytes() == 0) {
    section->memory = host_memory(kSectionBytes, "kernels::staging");
    check(cudaEventCreateWithFlags(&section->fetched, cudaEventDisableTiming), "event");
  } else {
    check(cudaEventSynchronize(section->fetched), "staging");
  }
  section->used = 0;
  return *section;
}

void Staging::copy(void* device, const void* host, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  for (std::size_t at = 0; at < bytes;) {
    const std::size_t piece = std::min(bytes - at, kSectionBytes);
    Section& section = with_room(piece);
    std::byte* const staged = section.memory.as<std::byte>() + section.used;
    std::memcpy(staged, static_cast<const std::byte*>(host) + at, piece);
    check(
        cudaMemcpyAsync(static_cast<std::byte*>(device) + at, staged, piece, cudaMemcpyHostToDevice, stream_),
        "copy to the GPU");
    section.used += piece;
    at += piece;
  }
}

}  // namespace nightshift::kernels::cuda
