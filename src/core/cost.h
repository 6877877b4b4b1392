// SPDX-License-Identifier: Apache-2.0
// What a step costs by formula: the numerator of every "share of peak" and the planner's input.
#pragma once

#include "core/types.h"

namespace nightshift {

struct StepCost {
  double flops = 0.0;         // 2 n P + 4 L Hq d (c k + c (c + 1) / 2) + 2 V h per sampled row
  double memory_bytes = 0.0;  // weights once, KV of the context read per sequence, KV of new tokens written

  void add(const StepCost& other) {
    flops += other.flops;
    memory_bytes += other.memory_bytes;
  }
};

// Cost of `tokens` query tokens after `context` tokens already in the cache; without weights.
inline StepCost sequence_cost(const ModelShape& m, double context, double tokens, bool samples) {
  const double pairs = tokens * context + tokens * (tokens + 1) / 2;  // causal (query, key) pairs
  StepCost cost;
  cost.flops = 2.0 * tokens * static_cast<double>(m.matrix_parameters()) +
               4.0 * m.layers * m.heads * m.head_dim * pairs;
  if (samples) cost.flops += 2.0 * static_cast<double>(m.embedding_parameters());
  cost.memory_bytes = (context + 2 * tokens) * static_cast<double>(m.kv_bytes_per_token());
  return cost;
}

inline StepCost step_cost(const ModelShape& m, const BatchPlan& plan) {
  StepCost cost;
  cost.memory_bytes = 2.0 * static_cast<double>(m.matrix_parameters() + m.embedding_parameters());  // bf16
  for (const PlannedSequence& s : plan.sequences)
    cost.add(sequence_cost(m, s.computed, s.num_tokens, s.samples));
  return cost;
}

}  // namespace nightshift
