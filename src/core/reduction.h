// SPDX-License-Identifier: Apache-2.0
// How the sum of a row-parallel product is cut into kReductionShards virtual shards. The cut is part of the
// arithmetic: it depends on the model alone, never on how many ranks share the work, and halving at every
// level makes the shards of each of P ranks (P a power of two) one subtree of the fixed summation tree.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/types.h"

namespace nightshift {

using ReductionBounds = std::array<std::int64_t, kReductionShards + 1>;

// Columns of the MLP's inner width that stay together: half a panel of the interleaved gate/up matrix.
inline constexpr std::int64_t kMlpUnit = 32;

// Splits `columns`, made of units of `unit` columns (the last may be short), into shards at unit borders:
// halves of halves, the left one larger by a unit when the count is odd. Fewer units than shards leave some
// shards empty. Returns kReductionShards + 1 ascending offsets, the first 0, the last `columns`.
constexpr ReductionBounds reduction_bounds(std::int64_t columns, std::int64_t unit) {
  ReductionBounds bounds{};
  bounds.back() = (columns + unit - 1) / unit;
  for (int span = kReductionShards; span > 1; span /= 2)
    for (int first = 0; first < kReductionShards; first += span) {
      const std::int64_t low = bounds[static_cast<std::size_t>(first)];
      const std::int64_t high = bounds[static_cast<std::size_t>(first + span)];
      bounds[static_cast<std::size_t>(first + span / 2)] = low + (high - low + 1) / 2;
    }
  for (std::int64_t& bound : bounds) bound = std::min(bound * unit, columns);
  return bounds;
}
static_assert((kReductionShards & (kReductionShards - 1)) == 0, "the summation tree is binary");

// Attention output: whole heads. MLP down projection: whole gate/up units.
constexpr ReductionBounds attention_bounds(const ModelShape& shape) {
  return reduction_bounds(static_cast<std::int64_t>(shape.heads) * shape.head_dim, shape.head_dim);
}
constexpr ReductionBounds mlp_bounds(const ModelShape& shape) {
  return reduction_bounds(shape.intermediate, kMlpUnit);
}

}  // namespace nightshift
