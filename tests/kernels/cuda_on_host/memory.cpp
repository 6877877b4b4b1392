// SPDX-License-Identifier: Apache-2.0
#include "cuda_on_host/memory.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>

namespace nightshift::simulated {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kGuard = 256;
constexpr unsigned char kMark = 0xa5;

// Page-locked runs of bytes, by their begin.
std::mutex host_mutex;
std::map<std::uintptr_t, std::size_t> host_memory;

std::uintptr_t address(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data);
}

}  // namespace

void* allocate_host(std::size_t bytes) {
  void* data = allocate(bytes);
  const std::lock_guard lock(host_mutex);
  if (data != nullptr) host_memory[address(data)] = bytes;
  return data;
}

bool is_host_memory(const void* data) {
  const std::lock_guard lock(host_mutex);
  const auto after = host_memory.upper_bound(address(data));
  if (after == host_memory.begin()) return false;
  const auto& [begin, bytes] = *std::prev(after);
  return address(data) < begin + bytes;
}

void* allocate(std::size_t bytes) {
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  auto* memory = static_cast<unsigned char*>(std::aligned_alloc(kAlignment, kAlignment + rounded + kGuard));
  if (memory == nullptr) return nullptr;
  std::memcpy(memory, &bytes, sizeof bytes);
  std::memset(memory + kAlignment, 0xff, bytes);
  std::memset(memory + kAlignment + bytes, kMark, rounded - bytes + kGuard);
  return memory + kAlignment;
}

void release(void* data) {
  if (data == nullptr) return;
  {
    const std::lock_guard lock(host_mutex);
    host_memory.erase(address(data));
  }
  auto* memory = static_cast<unsigned char*>(data) - kAlignment;
  std::size_t bytes = 0;
  std::memcpy(&bytes, memory, sizeof bytes);
  for (std::size_t i = 0; i < kGuard; ++i) {
    if (memory[kAlignment + bytes + i] == kMark) continue;
    std::fprintf(stderr, "a kernel has written behind %zu bytes of device memory\n", bytes);
    std::abort();
  }
  std::free(memory);
}

}  // namespace nightshift::simulated
