// SPDX-License-Identifier: Apache-2.0
// Backend over one NVIDIA GPU: everything goes to one stream, in the order of the calls, and nothing waits
// but copy_to_host() and synchronize().
//
// Layouts (see kernels.h): W is row-major [N padded to 64, K]; a KV block is, head by head, K [16 tokens, D]
// and then V [16 tokens, D], so that a token's K is one run of memory for asynchronous copies.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/graphs.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/staging.h"
#include "kernels/kernels.h"

namespace nightshift::kernels {
struct GpuFacts;
}

namespace nightshift::kernels::cuda {

struct AttentionCut;
struct Parts;
class SideStream;

// The sizes of attention heads that kernels are built for.
inline constexpr std::array<int, 7> kHeadDims = {16, 32, 64, 80, 96, 128, 256};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device, bool strict);
  ~CudaBackend() override;

  std::string_view kernel_set() const override { return strict_ ? "cuda" : "cuda_fast"; }
  Device device() const override { return Device::cuda; }
  int threads() const override { return 1; }
  void synchronize() override;
  void reserve_scratch(std::size_t bytes) override { scratch_->reserve(bytes); }
  PeakRates measured_peak() override;

  Buffer allocate(std::size_t bytes, const char* label) override;
  void copy_to_device(void* device, const void* host, std::size_t bytes) override;
  Buffer allocate_host(std::size_t bytes, const char* label) override { return host_memory(bytes, label); }
  void copy_to_host(void* host, const void* device, std::size_t bytes) override;
  void copy_to_host_later(void* host, const void* device, std::size_t bytes) override;
  Mark mark() override;
  bool reached(Mark mark) override;
  double seconds_between(Mark begin, Mark end) override;
  void run_repeatedly(std::uint64_t key, const std::function<void()>& work) override;
  bool takes_head_dim(int head_dim) const override;
  KvCache make_kv_cache(const KvShape& shape) override;
  std::size_t kv_block_bytes(const KvShape& shape) const override;

  std::size_t packed_bytes(std::int64_t n, std::int64_t k) const override;
  PackedMatrix make_packed(std::int64_t n, std::int64_t k, std::span<std::byte> memory) override;
  void pack_rows(PackedMatrix& w, std::int64_t first_row, MatrixView<const bf16> rows) override;
  void zero_padding(PackedMatrix& w) override;

  void gemm(MatrixView<const bf16> x, const PackedView& w, MatrixView<float> y, const float* bias) override;
  void gemm_reduced(MatrixView<const bf16> x, const PackedView& w, std::span<const std::int64_t> bounds,
                    MatrixView<float> y, const RmsNorm* norm) override;
  void gemm_partial(MatrixView<const bf16> x, const PackedView& w, std::span<const std::int64_t> bounds,
                    MatrixView<float> y) override;
  void add_tree(std::span<const MatrixView<const float>> parts, MatrixView<float> y) override;
  void gemm_silu_mul(MatrixView<const bf16> x, const PackedView& w, MatrixView<bf16> y,
                     const float* bias) override;

  void embed(MatrixView<const bf16> table, const TokenId* ids, MatrixView<float> y, TokenId first_id,
             float scale) override;
  void embed(const PackedView& table, const TokenId* ids, MatrixView<float> y, TokenId first_id,
             float scale) override;
  void place_ids(const PendingId* pending, int count, const TokenId* sampled, TokenId* ids) override;
  void rms_norm(MatrixView<const float> x, const float* weight, float eps, MatrixView<bf16> y) override;
  void silu_mul(MatrixView<const float> gate, MatrixView<const float> up, MatrixView<bf16> y) override;
  void add(MatrixView<const float> x, MatrixView<float> y) override;
  void fill(MatrixView<float> y, float value) override;
  void to_bf16(MatrixView<const float> x, MatrixView<bf16> y) override;
  void copy(MatrixView<const bf16> x, MatrixView<bf16> y) override;
  void gather_rows(MatrixView<const float> x, const std::int32_t* rows, MatrixView<float> y) override;

  std::unique_ptr<AttentionBatch> prepare(std::span<const SequenceSlice> slices,
                                          const AttentionLayers& layers) override;
  void rope(MatrixView<const float> qkv, const QkvLayout& layout, const AttentionBatch& batch,
            std::int64_t first_row, const Rope& rope, const HeadNorm& norm, MatrixView<bf16> out) override;
  void append(MatrixView<const bf16> kv, const AttentionShape& shape, const AttentionBatch& batch,
              KvCache& cache, int layer) override;
  void attention(MatrixView<const bf16> q, const AttentionShape& shape, const AttentionBatch& batch,
                 const KvCache& cache, int layer, float scale, int window, MatrixView<bf16> out) override;

  void argmax(MatrixView<const float> x, TokenId* ids, float* values) override;
  void sum_exp(MatrixView<const float> x, const float* row_max, std::span<const std::int64_t> bounds,
               MatrixView<float> sums) override;
  void top_k(MatrixView<const float> x, int k, MatrixView<TokenId> ids, MatrixView<float> values) override;
  std::unique_ptr<DeviceSampler> make_sampler(int vocab) override;

  int gpu() const { return device_; }
  void forget_recorded() { graphs_->clear(); }  // of run_repeatedly()
  cudaStream_t stream() const { return stream_; }

 private:
  AttentionCut cut_for(const AttentionShape& shape) const;
  void fill_with_noise(const Buffer& buffer);
  Parts products_of_shards(MatrixView<const bf16> x, const PackedView& w,
                           std::span<const std::int64_t> bounds);

  int device_;
  bool strict_;
  std::size_t most_shared_ = 0;  // bytes of shared memory that a block may have
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Products> products_;
  std::unique_ptr<Staging> staging_;
  std::unique_ptr<GrowingMemory> scratch_;  // what an operation writes and reads again
  std::unique_ptr<StepMemory> step_memory_;
  std::unique_ptr<Graphs> graphs_;
  std::unique_ptr<SideStream> side_;
  std::array<cudaEvent_t, 16> events_{};  // of the last marks, by mark % 16
  Mark last_mark_ = 0;
};

// GPUs that this process can use; 0 without a driver.
int device_count();
void describe(int device, GpuFacts& facts);

}  // namespace nightshift::kernels::cuda
