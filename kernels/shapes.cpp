// SPDX-License-Identifier: Apache-2.0
// What all backends share: shards of packed weights, checks of their bounds, the order of a tree sum.
#include <algorithm>
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

void check_rope(const MatrixView<const float>& qkv, const QkvLayout& layout, std::int64_t rows,
                int end_position, std::int64_t first_row, const Rope& rope, const MatrixView<bf16>& out) {
  const AttentionShape& s = layout.shape;
  NS_CHECK(s.heads > 0 && s.kv_heads > 0 && s.head_dim > 0 && s.head_dim % 2 == 0,
           "kernels::rope: {} heads, {} KV heads of {} dimensions; head_dim must be even", s.heads,
           s.kv_heads, s.head_dim);
  NS_CHECK(layout.groups == 1 || (layout.groups > 0 && layout.group_stride >= layout.width()),
           "kernels::rope: {} groups of {} columns, {} apart", layout.groups, layout.width(),
           layout.group_stride);
  check_shape("rope", "qkv", qkv, qkv.rows,
              std::max(qkv.cols, (layout.groups - 1) * layout.group_stride + layout.width()));
  check_shape("rope", "out", out, layout.groups * qkv.rows, layout.width());
  NS_CHECK(first_row >= 0 && first_row + qkv.rows <= rows, "kernels::rope: rows {}..{} of a batch of {}",
           first_row, first_row + qkv.rows, rows);
  check_shape("rope", "rope.sin", rope.sin, rope.cos.rows, rope.cos.cols);
  NS_CHECK(rope.cos.data == nullptr || (rope.cos.rows >= end_position && 2 * rope.cos.cols <= s.head_dim),
           "kernels::rope: rope tables are {} x {}, need {} positions and at most {} columns", rope.cos.rows,
           rope.cos.cols, end_position, s.head_dim / 2);
}

void check_heads(const char* operation, const AttentionShape& shape, BlockId highest_block,
                 const KvCache& cache, int layer) {
  const KvShape& kv = cache.shape();
  NS_CHECK(shape.kv_heads > 0 && shape.heads > 0 && shape.heads % shape.kv_heads == 0,
           "kernels::{}: {} heads over {} KV heads", operation, shape.heads, shape.kv_heads);
  NS_CHECK(shape.kv_heads == kv.kv_heads && shape.head_dim == kv.head_dim,
           "kernels::{}: {} KV heads of {} dimensions, the cache holds {} of {}", operation, shape.kv_heads,
           shape.head_dim, kv.kv_heads, kv.head_dim);
  NS_CHECK(layer >= 0 && layer < kv.layers, "kernels::{}: layer {} of {}", operation, layer, kv.layers);
  NS_CHECK(highest_block < kv.blocks, "kernels::{}: KV block {} of {}", operation, highest_block, kv.blocks);
}

void check_attention(const MatrixView<const bf16>& q, const AttentionShape& shape, std::int64_t rows,
                     BlockId highest_block, const KvCache& cache, int layer, float scale, int window,
                     const MatrixView<bf16>& out) {
  check_heads("attention", shape, highest_block, cache, layer);
  const std::int64_t columns = static_cast<std::int64_t>(shape.heads) * shape.head_dim;
  check_shape("attention", "q", q, rows, columns);
  check_shape("attention", "out", out, rows, columns);
  NS_CHECK(scale > 0.0F && window >= 0, "kernels::attention: scale {}, window {}", scale, window);
}

float tree_sum(std::span<const float> parts) {
  if (parts.empty()) return 0.0F;
  if (parts.size() == 1) return parts[0];
  const std::size_t left = std::bit_ceil(parts.size()) / 2;
  return tree_sum(parts.first(left)) + tree_sum(parts.subspan(left));
}

}  // namespace nightshift::kernels
