// SPDX-License-Identifier: Apache-2.0
// Backend over one CpuKernels table: checks at the door, tiles, threads. Work is done when a call returns.
#pragma once

#include <vector>

#include "kernels/cpu_kernels.h"
#include "kernels/kernels.h"

namespace nightshift::kernels {

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuKernels& kernels, int threads);

  std::string_view kernel_set() const override { return kernels_.name; }
  Device device() const override { return Device::cpu; }
  int threads() const override { return threads_; }
  void synchronize() override {}
  void reserve_scratch(std::size_t) override {}
  PeakRates measured_peak() override;

  Buffer allocate(std::size_t bytes, const char* label) override;
  void copy_to_device(void* device, const void* host, std::size_t bytes) override;
  void copy_to_host(void* host, const void* device, std::size_t bytes) override;
  Buffer allocate_host(std::size_t bytes, const char* label) override { return allocate(bytes, label); }
  void copy_to_host_later(void* host, const void* device, std::size_t bytes) override {
    copy_to_host(host, device, bytes);
  }
  Mark mark() override { return 0; }
  bool reached(Mark) override { return true; }
  double seconds_between(Mark, Mark) override { return 0.0; }
  void run_repeatedly(std::uint64_t, const std::function<void()>& work) override { work(); }
  bool takes_head_dim(int head_dim) const override { return head_dim % 2 == 0 && head_dim <= kMaxHeadDim; }
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
  void place_ids(const PendingId* pending, int count, const TokenId* sampled, TokenId* ids) override {
    for (int i = 0; i < count; ++i) ids[pending[i].row] = sampled[pending[i].source];
  }
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

 private:
  // The product behind all gemm_*: `block` holds what is common; y (or y16) and bias start at row 0, column
  // 0.
  void product(const char* label, MatrixView<const bf16> x, const PackedView& w, GemmBlock block,
               std::int64_t columns, int columns_per_panel);
  void* scratch(int worker) const {
    return static_cast<std::byte*>(scratch_.data()) + worker * kScratchBytes;
  }

  const CpuKernels& kernels_;
  int threads_;
  Buffer scratch_;  // kScratchBytes for each worker
};

}  // namespace nightshift::kernels
