// SPDX-License-Identifier: Apache-2.0
// What one layout asks of this rank: its slice of the tokens, its part of every weight, and with whom it
// exchanges. A replica of one rank is the case sequence = tensor = 1.
#pragma once

#include <vector>

#include "model/layout_groups.h"
#include "model/packed_weights.h"

namespace nightshift::model {

struct Shard : WeightParts {
  int sequence = 1, s = 0;                // slice s of the tokens
  int tensor = 1, t = 0;                  // part t of the weights
  Collectives* sequence_group = nullptr;  // in order of s; null where sequence = 1
  Collectives* tensor_group = nullptr;    // in order of t; null where tensor = 1

  std::vector<std::int64_t> o_bounds;    // reduction shards within o_columns, relative
  std::vector<std::int64_t> mlp_bounds;  // within mlp_columns

  std::int64_t slice_begin(std::int64_t tokens, int of) const {
    return parallel::slice_of(tokens, sequence, of).begin;
  }
};

// Part t of `tensor` of the matrices of a replica of `chunks` ranks: what the chunks of that part own.
WeightParts weight_parts(const ModelShape& shape, int chunks, int tensor, int t);
// What this process holds: everything, or on GPUs its part of the base layout. mesh null: one rank.
WeightParts held_parts(const ModelShape& shape, const parallel::DeviceMesh* mesh, kernels::Device device);

// mesh null: one rank. The groups must outlive the shard.
Shard make_shard(const ModelShape& shape, const parallel::DeviceMesh* mesh, const LayoutGroups& groups,
                 parallel::Layout layout);

// Bytes of weight matrices that a rank reads in a step of this layout.
std::int64_t matrix_bytes(const ModelShape& shape, const Shard& shard, kernels::Backend& backend);

}  // namespace nightshift::model
