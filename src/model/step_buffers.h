// SPDX-License-Identifier: Apache-2.0
// Everything a step writes, allocated once for the largest step. T: query tokens, S: sampling sequences.
#pragma once

#include <span>
#include <vector>

#include "core/types.h"
#include "kernels/kernels.h"
#include "model/files/model_files.h"

namespace nightshift::model {

struct StepBuffers {
  StepBuffers(const ModelConfig& config, const StepLimits& limits, kernels::Backend& backend);
  std::int64_t bytes() const;

  kernels::Matrix<TokenId> ids;                // [1, T]
  kernels::Matrix<float> residual;             // [T, hidden]
  kernels::Matrix<bf16> normed;                // [T, hidden]
  kernels::Matrix<float> qkv;                  // [T, (heads + 2 kv_heads) head_dim]
  kernels::Matrix<bf16> q;                     // [T, heads head_dim]
  kernels::Matrix<bf16> attended;              // [T, heads head_dim]
  kernels::Matrix<bf16> activated;             // [T, intermediate]
  kernels::Matrix<float> gate, up;             // [T, intermediate]; models with MLP biases
  kernels::Matrix<std::int32_t> sampled_rows;  // [1, S]
  kernels::Matrix<float> sampled;              // [S, hidden]
  kernels::Matrix<bf16> sampled_normed;        // [S, hidden]
  kernels::Matrix<float> logits;               // [S, vocab]
};

// A plan as the kernels want it. Rows of the batch are the query tokens in plan order.
struct StepBatch {
  std::vector<TokenId> ids;                      // [T]
  std::vector<kernels::SequenceSlice> slices;    // one per sequence
  std::vector<std::int32_t> sampled_rows;        // [S] the last row of each sequence that samples
  std::vector<const PlannedSequence*> sampling;  // [S]
};

// Checks the plan against the limits and the model; throws Error saying which sequence breaks which.
void fill_batch(const BatchPlan& plan, const ModelConfig& config, const StepLimits& limits, StepBatch& batch);

}  // namespace nightshift::model
