// SPDX-License-Identifier: Apache-2.0
// A step's sequences as the kernels of attention read them: work lists, made on the host, in one piece of
// device memory that every step writes anew.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/scratch.h"
#include "kernels/kernels.h"

namespace nightshift::kernels::cuda {

// How attention of one shape is cut into items. No result depends on it.
struct AttentionCut {
  int warps = 0;          // of a wide block: as many as its shared memory allows
  int most_partials = 0;  // segments whose sums have room in scratch memory
};

// What attention over layers of one (query heads a KV head, window) works through.
struct WorkList {
  int group = 0, window = -1, warps = 0;
  std::vector<AttentionItem> wide;    // blocks of `warps` warps, all segments; dearest first
  std::vector<AttentionItem> narrow;  // one warp, one segment
  std::vector<MergeItem> merges;
  std::int32_t partials = 0;
  // On the device, once uploaded.
  const AttentionItem* device_wide = nullptr;
  const AttentionItem* device_narrow = nullptr;
  const MergeItem* device_merges = nullptr;
};

class CudaAttentionBatch final : public AttentionBatch {
 public:
  // Copies to the device in the order of the stream: the batch before may still be in use.
  CudaAttentionBatch(std::span<const SequenceSlice> slices, const AttentionLayers& layers,
                     const AttentionCut& cut, StepMemory& memory);

  std::int64_t rows() const override { return static_cast<std::int64_t>(positions_.size()); }
  std::uint64_t replay_key() const override { return replay_key_; }
  int end_position() const { return end_position_; }
  BlockId highest_block() const { return highest_block_; }
  const std::int32_t* positions() const { return device_positions_; }  // [rows]
  const BlockId* row_blocks() const { return device_row_blocks_; }     // [rows] of each row's position
  const BlockId* blocks() const { return device_blocks_; }             // of the slices, one after the other

  // Of layers that prepare() was told of; others' lists are made here.
  const WorkList& work(int group, int window, const AttentionCut& cut) const;
  // Throws Error when another batch has been prepared since: there is one at a time.
  void check_current(const char* operation) const;

 private:
  struct Slice {
    std::int32_t first_row, tokens, start, first_block;
    std::int32_t context() const { return start + tokens; }
  };
  void add(const SequenceSlice& slice);
  WorkList make_work(int group, int window, const AttentionCut& cut) const;
  static void add_wide(WorkList& list, const Slice& s);
  static bool add_narrow(WorkList& list, const Slice& s, int most_partials);
  void round_up();
  void upload() const;

  StepMemory& memory_;
  mutable std::uint64_t written_ = 0;  // memory_.writes() then
  std::vector<Slice> slices_;
  std::vector<std::int32_t> positions_, row_blocks_, blocks_;
  BlockId highest_block_ = -1;
  int end_position_ = 0;
  mutable std::vector<WorkList> lists_;
  std::uint64_t replay_key_ = 0;
  mutable const std::int32_t* device_positions_ = nullptr;
  mutable const BlockId* device_row_blocks_ = nullptr;
  mutable const BlockId* device_blocks_ = nullptr;
};

}  // namespace nightshift::kernels::cuda
