// SPDX-License-Identifier: Apache-2.0
// The forward pass of a decoder-only transformer with pre-norm, rotary attention and a gated MLP (Llama and
// its kin).
#pragma once

#include "core/reduction.h"
#include "kernels/kernels.h"
#include "model/files/model_files.h"
#include "model/packed_weights.h"
#include "model/step_buffers.h"
#include "model/step_timer.h"

namespace nightshift::model {

class ForwardPass {
 public:
  // Allocates the KV cache, the rotary tables and the step buffers. References must outlive it.
  ForwardPass(const ModelConfig& config, const PackedWeights& weights, const StepLimits& limits,
              kernels::Backend& backend);

  // Runs all layers over the batch, K and V into the cache on the way. Returns logits [sampled rows, vocab]
  // fp32, valid until the next run.
  kernels::MatrixView<float> run(const StepBatch& batch);

  StepBuffers& buffers() { return buffers_; }
  StepTimer& timer() { return timer_; }
  std::int64_t kv_bytes() const { return static_cast<std::int64_t>(cache_.bytes()); }
  std::int64_t table_bytes() const { return 4 * (cos_.rows() * cos_.cols() + sin_.rows() * sin_.cols()); }

 private:
  void make_rope_tables();
  void attention_block(int layer, const kernels::AttentionBatch& batch);
  void mlp_block(int layer, std::int64_t tokens);
  kernels::MatrixView<float> head(const StepBatch& batch);
  kernels::Backend& at(Op op) {  // names the kind of the kernel call behind it
    timer_.at(op);
    return backend_;
  }

  const ModelConfig& config_;
  const PackedWeights& weights_;
  const StepLimits limits_;
  kernels::Backend& backend_;
  kernels::KvCache cache_;
  kernels::Matrix<float> cos_, sin_;  // [max_context, head_dim / 2]
  StepBuffers buffers_;
  const kernels::QkvLayout layout_;
  const ReductionBounds attention_bounds_;
  const ReductionBounds mlp_bounds_;
  const float eps_;
  StepTimer timer_;
};

}  // namespace nightshift::model
