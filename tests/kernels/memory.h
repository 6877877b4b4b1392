// SPDX-License-Identifier: Apache-2.0
// Memory of the tests that kernels of every set reach and that tests read and write by themselves.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/kernels.h"

namespace nightshift::kernels::test {

// Whether GPU sets run on tests/kernels/cuda_on_host, where device memory is the host's.
bool simulated_gpu();

// Page-locked memory where there is a GPU, which reaches it under the same address; ordinary memory
// elsewhere. Pieces of up to some MiB are kept and given out again, because the driver takes long to lock
// pages.
void* reachable_memory(std::size_t bytes);
void release_reachable(void* data, std::size_t bytes);

template <class T>
struct Reachable {
  using value_type = T;
  Reachable() = default;
  template <class U>
  Reachable(const Reachable<U>&) {}  // NOLINT(google-explicit-constructor): allocators convert
  T* allocate(std::size_t n) { return static_cast<T*>(reachable_memory(n * sizeof(T))); }
  void deallocate(T* data, std::size_t n) { release_reachable(data, n * sizeof(T)); }
  friend bool operator==(const Reachable&, const Reachable&) { return true; }
};

template <class T>
using Vector = std::vector<T, Reachable<T>>;

// `bytes` at whose end reachable memory ends: a kernel that reads or writes further is killed (CPU sets and
// the simulated GPU) or reported by compute-sanitizer (GPUs).
class GuardedMemory {
 public:
  explicit GuardedMemory(std::size_t bytes);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  std::byte* data() const { return data_; }

 private:
  Buffer locked_;  // on GPUs
  std::byte* mapped_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace nightshift::kernels::test
