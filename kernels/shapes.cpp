// SPDX-License-Identifier: Apache-2.0
// What all backends share: shards of packed weights, checks of their bounds, the order of a tree sum.
#include <bit>

#include "kernels/cpu_kernels.h"
#include "kernels/kernels.h"
#include "kernels/shape_check.h"

namespace nightshift::kernels {

PackedView PackedView::columns(std::int64_t first, std::int64_t count) const {
  NS_CHECK(first >= 0 && count >= 0 && first % kPanelRows == 0 && first + count <= n,
           "PackedView::columns({}, {}) of {} rows: a shard starts at a multiple of {}", first, count, n,
           kPanelRows);
  return {data + first / kPanelRows * panel_stride, count, k, panel_stride, k_stride};
}

PackedView PackedView::k_range(std::int64_t begin, std::int64_t end) const {
  NS_CHECK(begin >= 0 && begin <= end && end <= k && begin % 2 == 0 && end % 2 == 0,
           "PackedView::k_range({}, {}) of K = {}: both must be even", begin, end, k);
  return {data + begin * k_stride, n, end - begin, panel_stride, k_stride};
}

void check_bounds(const char* operation, std::span<const std::int64_t> bounds, std::int64_t extent,
                  bool even) {
  NS_CHECK(bounds.size() >= 2 && bounds.size() <= kMaxShards + 1,
           "kernels::{}: {} shard bounds, expected 2 to {}", operation, bounds.size(), kMaxShards + 1);
  NS_CHECK(bounds.front() == 0 && bounds.back() == extent, "kernels::{}: shards cover {}..{}, expected 0..{}",
           operation, bounds.front(), bounds.back(), extent);
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
    NS_CHECK(bounds[s] <= bounds[s + 1] && (!even || bounds[s] % 2 == 0),
             "kernels::{}: shard {} is {}..{}; bounds ascend{}", operation, s, bounds[s], bounds[s + 1],
             even ? " and are even" : "");
  }
}

float tree_sum(std::span<const float> parts) {
  if (parts.empty()) return 0.0F;
  if (parts.size() == 1) return parts[0];
  const std::size_t left = std::bit_ceil(parts.size()) / 2;
  return tree_sum(parts.first(left)) + tree_sum(parts.subspan(left));
}

}  // namespace nightshift::kernels
