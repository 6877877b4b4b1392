// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/batch.h"

#include <algorithm>
#include <cstring>

namespace nightshift::kernels::cuda {
namespace {

// Arrays one after the other, as they will lie on the device.
class Layout {
 public:
  template <class T>
  std::size_t add(const std::vector<T>& items) {
    const std::size_t at = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.resize(at + items.size() * sizeof(T));
    if (!items.empty()) std::memcpy(bytes_.data() + at, items.data(), items.size() * sizeof(T));
    return at;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  static constexpr std::size_t kAlignment = 64;
  std::vector<std::byte> bytes_;
};

// FNV-1a over whole numbers.
std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  return (hash ^ value) * 0x100000001b3U;
}

}  // namespace

CudaAttentionBatch::CudaAttentionBatch(std::span<const SequenceSlice> slices, const AttentionLayers& layers,
                                       const AttentionCut& cut, StepMemory& memory)
    : memory_(memory) {
  for (const SequenceSlice& s : slices) add(s);
  for (const int window : layers.windows)
    lists_.push_back(make_work(layers.shape.heads / layers.shape.kv_heads, window, cut));
  round_up();
  upload();
}

void CudaAttentionBatch::add(const SequenceSlice& s) {
  const int end = s.start + s.num_tokens;
  NS_CHECK(s.first_row == rows() && s.num_tokens > 0 && s.start >= 0,
           "kernels::prepare: slice {} has rows from {} ({} tokens, start {}), expected rows from {}",
           slices_.size(), s.first_row, s.num_tokens, s.start, rows());
  NS_CHECK(static_cast<std::int64_t>(s.blocks.size()) * kKvBlockTokens >= end,
           "kernels::prepare: slice {} ends at position {} but has {} KV blocks of {} tokens", slices_.size(),
           end, s.blocks.size(), kKvBlockTokens);
  slices_.push_back({static_cast<std::int32_t>(s.first_row), s.num_tokens, s.start,
                     static_cast<std::int32_t>(blocks_.size())});
  for (const BlockId block :
       s.blocks.first(static_cast<std::size_t>(end + kKvBlockTokens - 1) / kKvBlockTokens)) {
    NS_CHECK(block >= 0, "kernels::prepare: slice {} has KV block {}", slices_.size() - 1, block);
    highest_block_ = std::max(highest_block_, block);
    blocks_.push_back(block);
  }
  for (int position = s.start; position < end; ++position) {
    positions_.push_back(position);
    row_blocks_.push_back(s.blocks[static_cast<std::size_t>(position / kKvBlockTokens)]);
  }
  end_position_ = std::max(end_position_, end);
}

WorkList CudaAttentionBatch::make_work(int group, int window, const AttentionCut& cut) const {
  WorkList list;
  list.group = group;
  list.window = window;
  list.warps = cut.warps;
  for (const Slice& s : slices_) {
    const bool few = s.tokens * group <= kWarpRows;
    if (!few || !add_narrow(list, s, cut.most_partials)) add_wide(list, s);
  }
  // Dearest first, so that the last ones to be drawn are short.
  std::stable_sort(list.wide.begin(), list.wide.end(), [&](const AttentionItem& a, const AttentionItem& b) {
    return a.start + (a.first + a.rows) / group > b.start + (b.first + b.rows) / group;
  });
  return list;
}

void CudaAttentionBatch::add_wide(WorkList& list, const Slice& s) {
  const int all = s.tokens * list.group;
  for (int first = 0; first < all; first += list.warps * kWarpRows) {
    list.wide.push_back({s.first_row, s.start, s.context(), s.first_block, first,
                         std::min(list.warps * kWarpRows, all - first), -1, -1});
  }
}

// Few rows: a warp for each of their segments. False where there is no room for the sums of so many: long
// contexts that many sequences share. A block that takes all segments, one after the other, comes to the same
// bits.
bool CudaAttentionBatch::add_narrow(WorkList& list, const Slice& s, int most_partials) {
  const int window = list.window;
  const int first_key = window > 0 && s.start >= window ? s.start - window + 1 : 0;
  const int begin = first_key / kSegmentTokens, end = (s.context() - 1) / kSegmentTokens + 1;
  if (end - begin > 1 && list.partials + end - begin > most_partials) return false;
  AttentionItem item{s.first_row, s.start, s.context(), s.first_block, 0, s.tokens * list.group, begin, -1};
  if (end - begin > 1) list.merges.push_back({item, list.partials, end - begin});
  for (item.segment = begin; item.segment < end; ++item.segment) {
    if (end - begin > 1) item.partial = list.partials++;
    list.narrow.push_back(item);
  }
  return true;
}

// Decode steps of one width differ in their contexts alone. With the lists filled up by items without rows,
// the launches of one step serve many others.
void CudaAttentionBatch::round_up() {
  if (lists_.empty() ||
      !std::all_of(slices_.begin(), slices_.end(), [](const Slice& s) { return s.tokens == 1; }))
    return;
  std::uint64_t key = mix(0xcbf29ce484222325U, positions_.size());
  for (WorkList& list : lists_) {
    if (!list.wide.empty()) return;
    const std::size_t rows = slices_.size(), items = (list.narrow.size() + rows - 1) / rows * rows;
    list.narrow.resize(items);
    if (items > rows) {
      list.merges.resize(rows);
      list.partials = static_cast<std::int32_t>(items);
    }
    key = mix(mix(key, static_cast<std::uint64_t>(list.window)), items);
  }
  replay_key_ = key;
}

// Blocks come last: their number is the only one that varies between steps of one key.
void CudaAttentionBatch::upload() const {
  if (positions_.empty()) return;
  struct Offsets {
    std::size_t wide, narrow, merges;
  };
  Layout layout;
  const std::size_t positions = layout.add(positions_), row_blocks = layout.add(row_blocks_);
  std::vector<Offsets> offsets;
  for (const WorkList& list : lists_)
    offsets.push_back({layout.add(list.wide), layout.add(list.narrow), layout.add(list.merges)});
  const std::size_t blocks = layout.add(blocks_);
  const std::byte* const device = memory_.write(layout.bytes());
  written_ = memory_.writes();
  device_positions_ = reinterpret_cast<const std::int32_t*>(device + positions);
  device_row_blocks_ = reinterpret_cast<const BlockId*>(device + row_blocks);
  device_blocks_ = reinterpret_cast<const BlockId*>(device + blocks);
  for (std::size_t i = 0; i < lists_.size(); ++i) {
    lists_[i].device_wide = reinterpret_cast<const AttentionItem*>(device + offsets[i].wide);
    lists_[i].device_narrow = reinterpret_cast<const AttentionItem*>(device + offsets[i].narrow);
    lists_[i].device_merges = reinterpret_cast<const MergeItem*>(device + offsets[i].merges);
  }
}

const WorkList& CudaAttentionBatch::work(int group, int window, const AttentionCut& cut) const {
  for (const WorkList& list : lists_)
    if (list.group == group && list.window == window) return list;
  lists_.push_back(make_work(group, window, cut));
  upload();
  return lists_.back();
}

void CudaAttentionBatch::check_current(const char* operation) const {
  NS_CHECK(written_ == memory_.writes(), "kernels::{}: another batch has been prepared since this one",
           operation);
}

}  // namespace nightshift::kernels::cuda
