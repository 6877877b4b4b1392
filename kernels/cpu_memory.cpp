// SPDX-License-Identifier: Apache-2.0
// Buffers, the KV cache and packed weights of the CPU backend.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/cpu_backend.h"
#include "kernels/shape_check.h"
#include "kernels/team.h"

namespace nightshift::kernels {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kWorthHugePages = 2 * kHugePage;
constexpr std::size_t kPage = 4096;
constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE (Linux 5.14), younger than many systems' headers
constexpr std::int64_t kPackDepth = 1024;  // k that one thread packs of a panel: 128 KiB
constexpr double kPackNanosecondsPerElement = 0.4;

void check_kv(const KvShape& s) {
  NS_CHECK(s.layers > 0 && s.kv_heads > 0 && s.blocks >= 0 && s.head_dim > 0 && s.head_dim % 2 == 0 &&
               s.head_dim <= kMaxHeadDim,
           "kernels::make_kv_cache: {} layers, {} KV heads, head_dim {}, {} blocks; head_dim must be even "
           "and at most {}",
           s.layers, s.kv_heads, s.head_dim, s.blocks, kMaxHeadDim);
}

// Asks for the pages of fresh memory in one call: a quarter faster than one fault for each, and they are
// still in cache when they are written. Contents of pages that are there stay. A wish: failure costs speed
// only.
void populate(void* data, std::size_t bytes) {
  const std::size_t before = reinterpret_cast<std::uintptr_t>(data) % kPage;
  ::madvise(static_cast<std::byte*>(data) - before, before + bytes, kPopulateWrite);
}

std::int64_t panels(std::int64_t n) {
  return (n + kPanelRows - 1) / kPanelRows;
}

}  // namespace

// Huge pages cut TLB misses where weights and KV stream from DRAM (a third of the bandwidth with 4 KiB
// pages).
Buffer CpuBackend::allocate(std::size_t bytes, const char* label) {
  if (bytes == 0) return {};
  const bool huge = bytes >= kWorthHugePages;
  const std::size_t alignment = huge ? kHugePage : 64;
  void* data = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (data == nullptr) {
    throw Error(fmt::format("no memory for {} ({:.1f} MiB)", label, static_cast<double>(bytes) / (1 << 20)),
                "use more ranks or nodes, a smaller KV cache, or a smaller model");
  }
  if (huge) ::madvise(data, bytes, MADV_HUGEPAGE);  // a wish: failure costs speed only
#ifndef NDEBUG
  std::memset(data, 0xff, bytes);  // NaN as float and as bf16: reading what nobody wrote shows up
#endif
  return {data, bytes, Device::cpu, label, [](void* memory, std::size_t) { std::free(memory); }};
}

void CpuBackend::copy_to_device(void* device, const void* host, std::size_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}

void CpuBackend::copy_to_host(void* host, const void* device, std::size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}

std::size_t CpuBackend::kv_block_bytes(const KvShape& shape) const {
  check_kv(shape);
  return static_cast<std::size_t>(kv_head_elements(shape.head_dim)) * shape.layers * shape.kv_heads *
         sizeof(bf16);
}

KvCache CpuBackend::make_kv_cache(const KvShape& shape) {
  const std::size_t bytes = kv_block_bytes(shape) * shape.blocks;
  return {allocate(bytes, "kernels::kv_cache"), shape, kv_head_elements(shape.head_dim)};
}

std::size_t CpuBackend::packed_bytes(std::int64_t n, std::int64_t k) const {
  NS_CHECK(n > 0 && k > 0 && k % 2 == 0,
           "kernels::make_packed: W is {} x {}; both must be positive and K even", n, k);
  return static_cast<std::size_t>(panels(n) * kPanelRows * k) * sizeof(bf16);
}

PackedMatrix CpuBackend::make_packed(std::int64_t n, std::int64_t k, std::span<std::byte> memory) {
  const std::size_t bytes = packed_bytes(n, k);
  if (!memory.empty()) {
    NS_CHECK(memory.size() >= bytes && reinterpret_cast<std::uintptr_t>(memory.data()) % 64 == 0,
             "kernels::make_packed: {} bytes of memory at {}, expected {} bytes, 64-byte aligned",
             memory.size(), fmt::ptr(memory.data()), bytes);
    return {Buffer{}, reinterpret_cast<bf16*>(memory.data()), n, k};
  }
  Buffer buffer = allocate(bytes, "kernels::packed_weights");
  bf16* data = buffer.as<bf16>();
  PackedMatrix w{std::move(buffer), data, n, k};
  zero_padding(w);
  return w;
}

void CpuBackend::zero_padding(PackedMatrix& w) {
  for (std::int64_t n = w.n(); n < panels(w.n()) * kPanelRows; ++n) {
    bf16* to = w.data() + n / kPanelRows * kPanelRows * w.k() + n % kPanelRows * 2;
    for (std::int64_t i = 0; i < w.k(); i += 2)
      std::memset(static_cast<void*>(to + i * kPanelRows), 0, 2 * sizeof(bf16));
  }
}

void CpuBackend::pack_rows(PackedMatrix& w, std::int64_t first_row, MatrixView<const bf16> rows) {
  check_shape("pack_rows", "rows", rows, rows.rows, w.k());
  NS_CHECK(first_row >= 0 && first_row + rows.rows <= w.n(),
           "kernels::pack_rows: rows {}..{} of a matrix with {}", first_row, first_row + rows.rows, w.n());
  // A tile is what falls into one panel and a stretch of k, so that threads write to different cache lines
  // and one panel is enough work for several.
  const std::int64_t first_panel = first_row / kPanelRows;
  const std::int64_t stretches = (w.k() + kPackDepth - 1) / kPackDepth;
  const std::int64_t tiles = (panels(first_row + rows.rows) - first_panel) * stretches;
  const double cost =
      static_cast<double>(rows.rows) * static_cast<double>(w.k()) * kPackNanosecondsPerElement;
  for_each_tile("kernels::pack_rows", threads_, tiles, cost, [&](int, std::int64_t tile) {
    const std::int64_t panel = first_panel + tile / stretches;
    const std::int64_t k = tile % stretches * kPackDepth;
    const std::int64_t begin = std::max(first_row, panel * kPanelRows);
    const std::int64_t end = std::min(first_row + rows.rows, (panel + 1) * kPanelRows);
    const std::int64_t depth = std::min(kPackDepth, w.k() - k);
    bf16* to = w.data() + (panel * w.k() + k) * kPanelRows;
    populate(to, static_cast<std::size_t>(depth * kPanelRows) * sizeof(bf16));
    kernels_.pack({rows.row(begin - first_row) + k, rows.stride, static_cast<int>(begin % kPanelRows),
                   static_cast<int>(end - begin), depth / 2, to});
  });
}

}  // namespace nightshift::kernels
