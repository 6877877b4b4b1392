// SPDX-License-Identifier: Apache-2.0
// Everything a step writes, allocated once for the largest step. T: query tokens, S: sampling sequences.
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "core/types.h"
#include "kernels/kernels.h"
#include "model/files/model_files.h"
#include "model/shard.h"

namespace nightshift::model {

// Buffers that hold a matrix of another shape in each layout are flat; the forward pass lays views over them.
struct StepBuffers {
  // `base`, `shift`: what this rank does in the two layouts.
  StepBuffers(const ModelConfig& config, const StepLimits& limits, const Shard& base, const Shard& shift,
              kernels::Backend& backend);
  std::int64_t bytes() const;

  // Ts: query tokens of this rank's slice; Tw: columns of its tensor-parallel part; C: of its own chunk.
  kernels::Matrix<TokenId> ids;                 // [1, Ts]
  kernels::Matrix<kernels::PendingId> pending;  // [1, Ts]
  kernels::Matrix<float> residual;              // [Ts, hidden]
  kernels::Matrix<bf16> normed;                 // [Ts, hidden]
  kernels::Matrix<float> qkv;                   // flat: [Ts, sequence * chunk_rows]
  kernels::Matrix<bf16> qkv_out;                // flat: [sequence][Ts, (Hc + 2 Hkvc) head_dim], to its owners
  kernels::Matrix<bf16> qkv_in;                 // flat: [T, (Hc + 2 Hkvc) head_dim]; sequence > 1
  kernels::Matrix<bf16> attended;               // flat: [T, Hc head_dim]
  kernels::Matrix<bf16> returned;               // flat: [sequence][Ts, Hc head_dim]; sequence > 1
  kernels::Matrix<bf16> o_input;                // flat: [Ts, sequence * Hc head_dim]; sequence > 1
  kernels::Matrix<bf16> activated;              // flat: [Ts, intermediate / tensor]
  kernels::Matrix<float> partial;               // [Ts, hidden] this rank's subtree sums; tensor > 1
  kernels::Matrix<float> parts;                 // flat: [tensor][its share of Ts * hidden]; tensor > 1
  kernels::Matrix<std::int32_t> sampled_rows;   // [1, S]
  kernels::Matrix<float> sampled;               // [S, hidden]
  kernels::Matrix<bf16> sampled_normed;         // [S, hidden]
  kernels::Matrix<float> logits;                // [S, this rank's chunk of the vocabulary]
};

// Of a step that may not have ended yet: which of its sampled tokens is whose.
using SampledIndex = std::unordered_map<SequenceId, std::int32_t>;

// A plan as the kernels want it. Rows of the batch are the query tokens in plan order.
struct StepBatch {
  std::vector<TokenId> ids;                      // [T]
  std::vector<kernels::SequenceSlice> slices;    // one per sequence
  std::vector<std::int32_t> sampled_rows;        // [S] the last row of each sequence that samples
  std::vector<const PlannedSequence*> sampling;  // [S]
  std::vector<kernels::PendingId> pending;       // ids that the step before samples, by ascending row
  std::vector<std::int32_t> pending_of;          // [S] its last known token's source in that step, or -1

  bool decodes_only() const { return ids.size() == slices.size() && ids.size() == sampled_rows.size(); }
};

// Checks the plan against the limits and the model; throws Error saying which sequence breaks which.
// `before`: of the step submitted before this one, for tokens that are not known yet.
void fill_batch(const BatchPlan& plan, const ModelConfig& config, const StepLimits& limits,
                const SampledIndex& before, StepBatch& batch);

// Adds rows that nobody reads, in a KV block of their own, up to one of few widths: decode steps of equal
// width can repeat each other's launches.
void pad_decodes(StepBatch& batch, const StepLimits& limits, std::span<const BlockId> block);

}  // namespace nightshift::model
