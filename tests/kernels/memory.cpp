// SPDX-License-Identifier: Apache-2.0
#include "kernels/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>

#include "kernels/gpu.h"

namespace nightshift::kernels::test {
namespace {

// Page-locked memory comes from a backend of its own, which ends with the process: vectors of static storage
// may outlive main.
Backend& locker() {
  static Backend* const backend = make_gpu_backend(0, true).release();
  return *backend;
}

// The simulated GPU gets exactly what is asked for, and back at once: it looks whether anybody has written
// behind it.
class LockedMemory {
 public:
  void* take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    auto& kept = kept_[size_class(bytes)];
    if (keeps(bytes) && !kept.empty()) {
      void* const data = kept.back();
      kept.pop_back();
      return data;
    }
    const std::size_t wanted = keeps(bytes) ? std::size_t{1} << size_class(bytes) : bytes;
    Buffer buffer = locker().allocate_host(wanted, "test::host_memory");
    void* const data = buffer.data();
    buffers_.emplace(data, std::move(buffer));
    return data;
  }
  void give_back(void* data, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (keeps(bytes)) {
      kept_[size_class(bytes)].push_back(data);
    } else {
      buffers_.erase(data);
    }
  }

 private:
  static bool keeps(std::size_t bytes) { return !simulated_gpu() && bytes <= std::size_t{4} << 20; }
  static int size_class(std::size_t bytes) { return static_cast<int>(std::bit_width(bytes - 1)); }

  std::mutex mutex_;
  std::array<std::vector<void*>, 64> kept_;  // of 2^i bytes
  std::map<void*, Buffer> buffers_;
};

LockedMemory& locked() {
  static auto* const memory = new LockedMemory;
  return *memory;
}

}  // namespace

bool simulated_gpu() {
  static const bool simulated = [] {
    const char* library = std::getenv("NIGHTSHIFT_CUDA_LIBRARY");
    return library != nullptr && std::string_view(library).find("simulated") != std::string_view::npos;
  }();
  return simulated;
}

void* reachable_memory(std::size_t bytes) {
  return gpu_count() > 0 ? locked().take(bytes) : ::operator new (bytes, std::align_val_t{64});
}

void release_reachable(void* data, std::size_t bytes) {
  gpu_count() > 0 ? locked().give_back(data, bytes) : ::operator delete (data, std::align_val_t{64});
}

GuardedMemory::GuardedMemory(std::size_t bytes) {
  if (gpu_count() > 0 && !simulated_gpu()) {
    locked_ = locker().allocate_host(bytes, "test::guarded");
    data_ = locked_.as<std::byte>();
    return;
  }
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t used = (bytes + page - 1) / page * page;
  mapped_bytes_ = used + page;
  mapped_ = static_cast<std::byte*>(
      ::mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ::mprotect(mapped_ + used, page, PROT_NONE);
  data_ = mapped_ + used - bytes;
}

GuardedMemory::~GuardedMemory() {
  if (mapped_ != nullptr) ::munmap(mapped_, mapped_bytes_);
}

}  // namespace nightshift::kernels::test
