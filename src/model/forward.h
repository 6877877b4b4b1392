// SPDX-License-Identifier: Apache-2.0
// The forward pass of a decoder-only transformer with pre-norm, rotary attention and a gated MLP (Llama and
// its kin), in the layouts of Shift Parallelism.
//
// One code for all: a rank computes its slice of the tokens (1 / sequence of them) with its part of the
// weights (1 / tensor of them); QKV and attention outputs change between token slices and heads by two
// exchanges where sequence > 1 (Ulysses, Jacobs et al. 2023); row-parallel products are summed over ranks
// where tensor > 1, by the same tree of fp32 shard sums that one rank computes alone.
#pragma once

#include <array>
#include <functional>
#include <utility>

#include "kernels/kernels.h"
#include "model/files/model_files.h"
#include "model/packed_weights.h"
#include "model/shard.h"
#include "model/step_buffers.h"
#include "model/step_timer.h"

namespace nightshift::model {

class ForwardPass {
 public:
  // Allocates the KV cache (of this rank's heads), the rotary tables and the step buffers. References must
  // outlive it; mesh null: one rank.
  ForwardPass(const ModelConfig& config, const PackedWeights& weights, const StepLimits& limits,
              const parallel::DeviceMesh* mesh, kernels::Backend& backend,
              Transport transport = Transport::automatic);

  // Starts all layers over the batch, K and V into the cache on the way. Returns logits [sampled rows, this
  // rank's chunk of the vocabulary] fp32, valid until the next run. `before`: the tokens that the step before
  // samples, where the batch has pending ones; in device memory. Collective over the replica.
  kernels::MatrixView<float> run(StepBatch& batch, parallel::Layout layout, const TokenId* before = nullptr);

  const Shard& shard(parallel::Layout layout) const { return shards_[static_cast<std::size_t>(layout)]; }
  const parallel::Range& vocabulary() const { return vocabulary_; }  // of this rank's logits, in any layout
  StepBuffers& buffers() { return buffers_; }
  LayoutGroups& groups() { return groups_; }
  void on_layer(std::function<void()> call) { on_layer_ = std::move(call); }  // before each
  StepTimer& timer() { return timer_; }
  std::int64_t kv_bytes() const { return static_cast<std::int64_t>(cache_.bytes()); }
  std::int64_t table_bytes() const { return 4 * (cos_.rows() * cos_.cols() + sin_.rows() * sin_.cols()); }

 private:
  // One step's view of things. T: its query tokens, Ts: those of this rank's slice.
  struct Step {
    const Shard& shard;
    const kernels::AttentionBatch& batch;
    parallel::Range slice;                // rows of the batch
    kernels::MatrixView<float> residual;  // [Ts, hidden]
    kernels::MatrixView<bf16> normed;     // [Ts, hidden]
    std::int64_t tokens() const { return batch.rows(); }
    std::int64_t rows() const { return slice.size(); }
  };

  void make_rope_tables();
  void upload(const StepBatch& batch, const Step& step, const TokenId* before);
  void embed(const Step& step);
  void layers(const Step& step);
  void attention_block(int layer, const Step& step);
  void mlp_block(int layer, const Step& step);
  kernels::MatrixView<const bf16> exchange_qkv(const Step& step, kernels::MatrixView<const bf16> out);
  kernels::MatrixView<const bf16> exchange_attended(const Step& step,
                                                    kernels::MatrixView<const bf16> attended);
  void row_parallel(Op op, kernels::MatrixView<const bf16> x, const kernels::PackedView& w,
                    std::span<const std::int64_t> bounds, const Vector& bias, const Vector* next_norm,
                    const Step& step);
  void add_over_ranks(parallel::Traffic kind, const Step& step);
  void head(const StepBatch& batch, const Step& step, kernels::MatrixView<float> logits);
  void gather_sampled(const StepBatch& batch, const Step& step, kernels::MatrixView<float> sampled);
  kernels::Backend& at(Op op) {  // names the kind of the kernel call behind it
    timer_.at(op);
    return backend_;
  }

  const ModelConfig& config_;
  const PackedWeights& weights_;
  const StepLimits limits_;
  kernels::Backend& backend_;
  LayoutGroups groups_;
  const std::array<Shard, 2> shards_;  // by Layout
  const QkvChunk chunk_;
  const parallel::Range vocabulary_;
  const kernels::AttentionShape heads_;  // of this rank's chunk: the same in both layouts
  kernels::KvCache cache_;
  kernels::Matrix<float> cos_, sin_;  // [max_context, head_dim / 2]
  StepBuffers buffers_;
  const float eps_;
  StepTimer timer_;
  std::vector<std::int64_t> send_bytes_, receive_bytes_;  // of an exchange, by rank of its group
  std::function<void()> on_layer_;
  std::vector<std::int32_t> local_rows_;  // of sampled rows in this slice
  std::vector<kernels::PendingId> local_pending_;
  std::vector<int> windows_;            // the different ones of all layers
  std::vector<BlockId> padding_block_;  // one behind those of the scheduler
};

}  // namespace nightshift::model
