// SPDX-License-Identifier: Apache-2.0
// Buffers, the KV cache and weights of the CUDA backend.
#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/side_stream.h"
#include "kernels/gpu.h"
#include "kernels/shape_check.h"

namespace nightshift::kernels::cuda {
namespace {

std::int64_t padded_rows(std::int64_t n) {
  return (n + kPanelRows - 1) / kPanelRows * kPanelRows;
}

// Elements of one head of one block: K [16, D], V [16, D].
std::int64_t head_elements(int head_dim) {
  return 2 * static_cast<std::int64_t>(kKvBlockTokens) * head_dim;
}

}  // namespace

Buffer device_memory(std::size_t bytes, const char* label) {
  void* data = nullptr;
  check(cudaMalloc(&data, bytes),
        fmt::format("{} ({:.1f} MiB)", label, static_cast<double>(bytes) / (1 << 20)));
  return {data, bytes, Device::cuda, label, [](void* memory, std::size_t) { cudaFree(memory); }};
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

namespace {
bool is_page_locked(const void* host) {
  cudaPointerAttributes kind{};
  return cudaPointerGetAttributes(&kind, host) == cudaSuccess && kind.type == cudaMemoryTypeHost;
}
}  // namespace

void describe(int device, GpuFacts& facts) {
  std::array<char, 32> bus{};
  std::size_t total = 0, free = 0;
  check(cudaSetDevice(device), fmt::format("GPU {}", device));
  check(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), device), "GPU's bus");
  check(cudaMemGetInfo(&free, &total), "GPU's memory");
  facts = {bus.data(), free};
}

CudaBackend::CudaBackend(int device, bool strict) : device_(device), strict_(strict) {
  check(cudaSetDevice(device), fmt::format("GPU {}", device));
  int shared = 0;
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "GPU's shared memory");
  most_shared_ = static_cast<std::size_t>(shared);
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  for (cudaEvent_t& event : events_) check(cudaEventCreate(&event), "event");
  products_ = std::make_unique<Products>(stream_, strict);
  staging_ = std::make_unique<Staging>(stream_);
  scratch_ = std::make_unique<GrowingMemory>(stream_, "kernels::scratch");
  step_memory_ = std::make_unique<StepMemory>(stream_, *staging_);
  graphs_ = std::make_unique<Graphs>(stream_);
  side_ = std::make_unique<SideStream>(stream_);
}

CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(stream_);
  graphs_.reset();
  side_.reset();
  step_memory_.reset();
  scratch_.reset();
  products_.reset();
  staging_.reset();
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
  cudaStreamDestroy(stream_);
}

void CudaBackend::synchronize() {
  check(cudaStreamSynchronize(stream_), "kernels");
}

void* GrowingMemory::reserve(std::size_t bytes) {
  if (bytes <= buffer_.bytes()) return buffer_.data();
  check(cudaStreamSynchronize(stream_), "kernels");
  buffer_ = {};
  buffer_ = device_memory(bytes, label_);
  ++growths_;
  return buffer_.data();
}

Buffer CudaBackend::allocate(std::size_t bytes, const char* label) {
  if (bytes == 0) return {};
  Buffer buffer = device_memory(bytes, label);
#ifndef NDEBUG
  // NaN as float and as bf16: reading what nobody wrote shows up
  check(cudaMemsetAsync(buffer.data(), 0xff, bytes, stream_), label);
#endif
  return buffer;
}

void CudaBackend::copy_to_device(void* device, const void* host, std::size_t bytes) {
  constexpr std::size_t kWorthAsking = 64 << 10;
  if (bytes < kWorthAsking || !is_page_locked(host)) return staging_->copy(device, host, bytes);
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "copy to the GPU");
}

void CudaBackend::copy_to_host(void* host, const void* device, std::size_t bytes) {
  if (bytes > 0)
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "copy to the host");
  synchronize();
}

void CudaBackend::copy_to_host_later(void* host, const void* device, std::size_t bytes) {
  if (bytes > 0)
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "copy to the host");
}

Mark CudaBackend::mark() {
  ++last_mark_;
  check(cudaEventRecord(events_[last_mark_ % events_.size()], stream_), "mark");
  return last_mark_;
}

// An event that has been recorded again since belongs to a later mark, which comes after this one.
bool CudaBackend::reached(Mark mark) {
  NS_CHECK(mark <= last_mark_, "kernels::reached: mark {} of {}", mark, last_mark_);
  if (mark == 0) return true;
  const cudaError_t state = cudaEventQuery(events_[mark % events_.size()]);
  if (state == cudaErrorNotReady) return false;
  check(state, "kernels");
  return true;
}

double CudaBackend::seconds_between(Mark begin, Mark end) {
  NS_CHECK(begin <= end && end <= last_mark_ && last_mark_ - begin < events_.size(),
           "kernels::seconds_between: marks {} and {} of {}", begin, end, last_mark_);
  float milliseconds = 0.0F;
  check(cudaEventElapsedTime(&milliseconds, events_[begin % events_.size()], events_[end % events_.size()]),
        "kernels");
  return 1e-3 * static_cast<double>(milliseconds);
}

void CudaBackend::run_repeatedly(std::uint64_t key, const std::function<void()>& work) {
  graphs_->run(key, scratch_->growths() + step_memory_->growths(), work);
}

std::size_t CudaBackend::kv_block_bytes(const KvShape& s) const {
  NS_CHECK(s.layers > 0 && s.kv_heads > 0 && s.blocks >= 0,
           "kernels::make_kv_cache: {} layers, {} KV heads, {} blocks", s.layers, s.kv_heads, s.blocks);
  if (!takes_head_dim(s.head_dim)) {
    std::vector<int> taken;
    std::copy_if(kHeadDims.begin(), kHeadDims.end(), std::back_inserter(taken),
                 [&](int head_dim) { return takes_head_dim(head_dim); });
    throw BadInput(fmt::format("attention heads of {} dimensions: on this GPU they may have {}", s.head_dim,
                               fmt::join(taken, ", ")),
                   "run.device = \"cpu\" takes any even number");
  }
  return static_cast<std::size_t>(head_elements(s.head_dim)) * s.layers * s.kv_heads * sizeof(bf16);
}

KvCache CudaBackend::make_kv_cache(const KvShape& shape) {
  const std::size_t bytes = kv_block_bytes(shape) * shape.blocks;
  return {allocate(bytes, "kernels::kv_cache"), shape, head_elements(shape.head_dim)};
}

std::size_t CudaBackend::packed_bytes(std::int64_t n, std::int64_t k) const {
  NS_CHECK(n > 0 && k > 0 && k % 2 == 0,
           "kernels::make_packed: W is {} x {}; both must be positive and K even", n, k);
  return static_cast<std::size_t>(padded_rows(n) * k) * sizeof(bf16);
}

PackedMatrix CudaBackend::make_packed(std::int64_t n, std::int64_t k, std::span<std::byte> memory) {
  const std::size_t bytes = packed_bytes(n, k);
  NS_CHECK(memory.empty() || memory.size() >= bytes, "kernels::make_packed: {} bytes of memory, expected {}",
           memory.size(), bytes);
  if (!memory.empty())
    return {Buffer{}, reinterpret_cast<bf16*>(memory.data()), n, k, PackedMatrix::Order::rows};
  Buffer buffer = allocate(bytes, "kernels::packed_weights");
  bf16* data = buffer.as<bf16>();
  PackedMatrix w{std::move(buffer), data, n, k, PackedMatrix::Order::rows};
  zero_padding(w);
  return w;
}

void CudaBackend::zero_padding(PackedMatrix& w) {
  const std::int64_t rows = padded_rows(w.n()) - w.n();
  if (rows > 0)
    check(cudaMemsetAsync(w.data() + w.n() * w.k(), 0, static_cast<std::size_t>(rows * w.k()) * sizeof(bf16),
                          stream_),
          "kernels::packed_weights");
}

void CudaBackend::pack_rows(PackedMatrix& w, std::int64_t first_row, MatrixView<const bf16> rows) {
  check_shape("pack_rows", "rows", rows, rows.rows, w.k());
  NS_CHECK(first_row >= 0 && first_row + rows.rows <= w.n(),
           "kernels::pack_rows: rows {}..{} of a matrix with {}", first_row, first_row + rows.rows, w.n());
  if (rows.rows == 0) return;
  const std::size_t width = static_cast<std::size_t>(w.k()) * sizeof(bf16);
  if (!is_page_locked(rows.data)) {
    for (std::int64_t r = 0; r < rows.rows; ++r)
      staging_->copy(w.data() + (first_row + r) * w.k(), rows.row(r), width);
    return;
  }
  check(cudaMemcpy2DAsync(w.data() + first_row * w.k(), width, rows.data,
                          static_cast<std::size_t>(rows.stride) * sizeof(bf16), width,
                          static_cast<std::size_t>(rows.rows), cudaMemcpyHostToDevice, stream_),
        "kernels::packed_weights");
}

// Of any size; products of zeros would be faster than any others.
void CudaBackend::fill_with_noise(const Buffer& buffer) {
  std::vector<bf16> noise(std::min<std::size_t>(buffer.bytes() / sizeof(bf16), std::size_t{1} << 20));
  std::uint32_t state = 1;
  for (bf16& x : noise) {
    state = state * 1664525U + 1013904223U;
    x = bf16(static_cast<float>(state >> 8) * 0x1p-23F - 1.0F);
  }
  const std::size_t piece = noise.size() * sizeof(bf16);
  for (std::size_t at = 0; at < buffer.bytes(); at += piece)
    copy_to_device(buffer.as<std::byte>() + at, noise.data(), std::min(piece, buffer.bytes() - at));
}

// The copy of a large buffer, and a product of large matrices: the rates that the roofline is drawn with.
PeakRates CudaBackend::measured_peak() {
  constexpr std::int64_t kSide = kSimulated ? 128 : 8192;
  constexpr int kRuns = 5;
  const Buffer a = allocate(kSide * kSide * sizeof(bf16), "kernels::peak_probe");
  const Buffer w = allocate(kSide * kSide * sizeof(bf16), "kernels::peak_probe");
  const Buffer y = allocate(kSide * kSide * sizeof(float), "kernels::peak_probe");
  fill_with_noise(a);
  fill_with_noise(w);
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  const auto seconds = [&](const auto& work) {
    float best = 1e30F;
    for (int run = 0; run < kRuns; ++run) {
      check(cudaEventRecord(begin, stream_), "event");
      work();
      check(cudaEventRecord(end, stream_), "event");
      check(cudaEventSynchronize(end), "kernels::peak_probe");
      float milliseconds = 0.0F;
      check(cudaEventElapsedTime(&milliseconds, begin, end), "event");
      best = std::min(best, milliseconds);
    }
    return 1e-3 * static_cast<double>(best);
  };
  PeakRates peak;
  const double multiplying = seconds([&] {
    products_->run({{a.as<bf16>(), kSide, kSide}, w.as<bf16>(), kSide, {y.as<float>(), kSide, kSide}});
  });
  const double copying = seconds([&] {
    check(cudaMemcpyAsync(w.data(), a.data(), a.bytes(), cudaMemcpyDeviceToDevice, stream_),
          "kernels::peak_probe");
  });
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  peak.bf16_flops = 2.0 * kSide * kSide * kSide / multiplying;
  peak.read_bandwidth = 2.0 * static_cast<double>(a.bytes()) / copying;
  return peak;
}

}  // namespace nightshift::kernels::cuda
