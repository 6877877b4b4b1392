// SPDX-License-Identifier: Apache-2.0
// Rotary embedding, KV append and attention of the CPU backend.
#include <algorithm>

#include "kernels/cpu_backend.h"
#include "kernels/shape_check.h"
#include "kernels/team.h"

namespace nightshift::kernels {
namespace {

constexpr double kNanosecondsPerFlop = 0.01;  // rough, only to decide how many threads to wake
constexpr double kNanosecondsPerElement = 0.8;

struct Slice {
  std::int64_t first_row;
  int tokens;
  int start;
  std::int64_t first_block;  // into blocks_
};

// Query tokens of one slice that are computed together.
struct Item {
  int slice;
  int first;  // token within the slice
  int tokens;
};

class CpuAttentionBatch final : public AttentionBatch {
 public:
  explicit CpuAttentionBatch(std::span<const SequenceSlice> slices) {
    for (const SequenceSlice& s : slices) add(s);
  }

  std::int64_t rows() const override { return static_cast<std::int64_t>(position_.size()); }
  int position(std::int64_t row) const { return position_[row]; }
  BlockId block(std::int64_t row) const { return block_[row]; }
  BlockId highest_block() const { return highest_block_; }
  int end_position() const { return end_position_; }
  const Slice& slice(int s) const { return slices_[s]; }
  const BlockId* blocks(const Slice& s) const { return blocks_.data() + s.first_block; }

  // Items of at most `tokens` tokens, dearest first, so that the last ones to be drawn are short. Kept for
  // the layers that follow.
  const std::vector<Item>& items(int tokens) const {
    if (tokens != item_tokens_) make_items(tokens);
    return items_;
  }
  // Sum over query tokens of the keys they see.
  double scores() const { return scores_; }

 private:
  void add(const SequenceSlice& s) {
    const int end = s.start + s.num_tokens;
    NS_CHECK(s.first_row == rows() && s.num_tokens > 0 && s.start >= 0,
             "kernels::prepare: slice {} has rows from {} ({} tokens, start {}), expected rows from {}",
             slices_.size(), s.first_row, s.num_tokens, s.start, rows());
    NS_CHECK(static_cast<std::int64_t>(s.blocks.size()) * kKvBlockTokens >= end,
             "kernels::prepare: slice {} ends at position {} but has {} KV blocks of {} tokens",
             slices_.size(), end, s.blocks.size(), kKvBlockTokens);
    slices_.push_back({s.first_row, s.num_tokens, s.start, static_cast<std::int64_t>(blocks_.size())});
    const std::size_t used = (end + kKvBlockTokens - 1) / kKvBlockTokens;
    blocks_.insert(blocks_.end(), s.blocks.begin(), s.blocks.begin() + static_cast<std::ptrdiff_t>(used));
    for (const BlockId block : s.blocks.first(used)) {
      NS_CHECK(block >= 0, "kernels::prepare: slice {} has KV block {}", slices_.size() - 1, block);
      highest_block_ = std::max(highest_block_, block);
    }
    for (int position = s.start; position < end; ++position) {
      position_.push_back(position);
      block_.push_back(s.blocks[position / kKvBlockTokens]);
      scores_ += position + 1;
    }
    end_position_ = std::max(end_position_, end);
  }

  void make_items(int tokens) const {
    items_.clear();
    for (int s = 0; s < static_cast<int>(slices_.size()); ++s) {
      const int parts = (slices_[s].tokens + tokens - 1) / tokens;
      const int even = (slices_[s].tokens + parts - 1) / parts;
      for (int first = 0; first < slices_[s].tokens; first += even) {
        items_.push_back({s, first, std::min(even, slices_[s].tokens - first)});
      }
    }
    const auto cost = [this](const Item& i) {
      return static_cast<std::int64_t>(i.tokens) * (slices_[i.slice].start + i.first + i.tokens);
    };
    std::stable_sort(items_.begin(), items_.end(),
                     [&](const Item& a, const Item& b) { return cost(a) > cost(b); });
    item_tokens_ = tokens;
  }

  std::vector<Slice> slices_;
  std::vector<BlockId> blocks_;
  std::vector<int> position_;  // of each row
  std::vector<BlockId> block_;
  BlockId highest_block_ = -1;
  int end_position_ = 0;
  double scores_ = 0.0;
  mutable std::vector<Item> items_;
  mutable int item_tokens_ = 0;
};

const CpuAttentionBatch& own(const char* operation, const AttentionBatch& batch) {
  const auto* ours = dynamic_cast<const CpuAttentionBatch*>(&batch);
  NS_CHECK(ours != nullptr, "kernels::{}: the batch was prepared by another backend", operation);
  return *ours;
}

}  // namespace

std::unique_ptr<AttentionBatch> CpuBackend::prepare(std::span<const SequenceSlice> slices,
                                                    const AttentionLayers&) {
  return std::make_unique<CpuAttentionBatch>(slices);
}

void CpuBackend::rope(MatrixView<const float> qkv, const QkvLayout& layout, const AttentionBatch& batch_,
                      std::int64_t first_row, const Rope& rope, const HeadNorm& norm, MatrixView<bf16> out) {
  const CpuAttentionBatch& batch = own("rope", batch_);
  const AttentionShape& s = layout.shape;
  NS_CHECK(s.head_dim <= kMaxHeadDim, "kernels::rope: heads of {} dimensions, at most {}", s.head_dim,
           kMaxHeadDim);
  check_rope(qkv, layout, batch.rows(), batch.end_position(), first_row, rope, out);
  const bool rotate = rope.cos.data != nullptr;
  const double cost = static_cast<double>(out.rows * out.cols) * kNanosecondsPerElement;
  for_each_tile("kernels::rope", threads_, out.rows, cost, [&](int, std::int64_t tile) {
    const std::int64_t row = tile / layout.groups;  // groups of a row one after the other: it is in cache
    const std::int64_t group = tile % layout.groups;
    const int position = batch.position(first_row + row);
    kernels_.rope({qkv.row(row) + group * layout.group_stride, s.heads, s.kv_heads, s.head_dim,
                   rotate ? rope.cos.row(position) : nullptr, rotate ? rope.sin.row(position) : nullptr,
                   static_cast<int>(2 * rope.cos.cols), norm.q, norm.k, norm.eps,
                   out.row(group * qkv.rows + row)});
  });
}

void CpuBackend::append(MatrixView<const bf16> kv, const AttentionShape& shape, const AttentionBatch& batch_,
                        KvCache& cache, int layer) {
  const CpuAttentionBatch& batch = own("append", batch_);
  check_heads("append", shape, batch.highest_block(), cache, layer);
  check_shape("append", "kv", kv, batch.rows(),
              2 * static_cast<std::int64_t>(shape.kv_heads) * shape.head_dim);
  const double cost = static_cast<double>(kv.rows * kv.cols) * kNanosecondsPerElement;
  for_each_tile("kernels::append", threads_, kv.rows, cost, [&](int, std::int64_t row) {
    kernels_.append({kv.row(row), shape.kv_heads, shape.head_dim, cache.head(layer, batch.block(row), 0),
                     batch.position(row) % kKvBlockTokens});
  });
}

void CpuBackend::attention(MatrixView<const bf16> q, const AttentionShape& shape,
                           const AttentionBatch& batch_, const KvCache& cache, int layer, float scale,
                           int window, MatrixView<bf16> out) {
  const CpuAttentionBatch& batch = own("attention", batch_);
  check_attention(q, shape, batch.rows(), batch.highest_block(), cache, layer, scale, window, out);
  const int group = shape.heads / shape.kv_heads;
  NS_CHECK(group <= kMaxBlockRows, "kernels::attention: {} query heads per KV head, at most {}", group,
           kMaxBlockRows);
  const auto& items = batch.items(kMaxBlockRows / group);
  const std::int64_t tiles = static_cast<std::int64_t>(items.size()) * shape.kv_heads;
  const double cost = batch.scores() * static_cast<double>(out.cols) * 4 * kNanosecondsPerFlop;
  for_each_tile("kernels::attention", threads_, tiles, cost, [&](int worker, std::int64_t tile) {
    const Item& item = items[tile / shape.kv_heads];
    const Slice& slice = batch.slice(item.slice);
    const int kv_head = static_cast<int>(tile % shape.kv_heads);
    const std::int64_t column = static_cast<std::int64_t>(kv_head) * group * shape.head_dim;
    const std::int64_t row = slice.first_row + item.first;
    kernels_.attention({q.row(row) + column, q.stride, out.row(row) + column, out.stride, item.tokens, group,
                        shape.head_dim, slice.start + item.first, slice.start + slice.tokens, window, scale,
                        cache.head(layer, 0, kv_head), cache.head_stride() * shape.kv_heads,
                        batch.blocks(slice), scratch(worker)});
  });
}

}  // namespace nightshift::kernels
