// SPDX-License-Identifier: Apache-2.0
// The paged KV pool's ledger (Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving
// with PagedAttention"): which block is free, which is held and by how many, which is kept for its content.
// It holds no keys and values, only decisions about them, and every decision is a function of the calls so
// far.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/types.h"

namespace nightshift::scheduler {

// Identifies a full block's tokens and everything before them: a hash over (the parent's hash, 16 tokens).
struct BlockHash {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  bool operator==(const BlockHash&) const = default;
};

using BlockTokens = std::span<const TokenId, kKvBlockTokens>;

BlockHash chain_hash(const BlockHash& parent, BlockTokens tokens);

constexpr int blocks_for(std::int64_t tokens) {
  return static_cast<int>((tokens + kKvBlockTokens - 1) / kKvBlockTokens);
}

// Every block is in exactly one of three states, so free + cached + held = total:
//   free    content worthless, on a stack
//   cached  nobody holds it, content published under its hash, on the LRU list, may be taken at any time
//   held    by one sequence or more; published or not
// All operations take constant time; nothing is allocated after construction.
class KvBlocks {
 public:
  KvBlocks(int total, bool prefix_cache);

  int total() const { return static_cast<int>(blocks_.size()); }
  int free() const { return static_cast<int>(free_.size()); }
  int cached() const { return cached_; }
  int held() const { return held_; }
  int available() const { return free() + cached(); }
  int held_high_water() const { return held_high_water_; }
  std::uint64_t evictions() const { return evictions_; }
  bool prefix_cache() const { return !table_.empty(); }

  // A private block: a free one, else the least recently used cached one, whose content is forgotten. At
  // least one must be available.
  BlockId allocate();

  // The published block with this content, or -1. Tokens are compared as well, so a hash collision is a miss.
  BlockId lookup(const BlockHash& hash, BlockTokens tokens) const;
  bool is_held(BlockId block) const { return blocks_[static_cast<std::size_t>(block)].holders > 0; }

  // One more holder of a published block.
  void share(BlockId block);

  // Offers a held block's content to others. Where an equal one is already published, that one stays and this
  // block remains private.
  void publish(BlockId block, const BlockHash& hash, BlockTokens tokens);

  // Gives up a sequence's blocks, last one first, so that a chain is later evicted from its tail: a prefix is
  // worth more than what hangs on it.
  void release(std::span<const BlockId> chain);

  // Throws unless the ledger balances and agrees with `holders`, the number of holders of each block as the
  // caller counts them.
  void audit(std::span<const int> holders) const;

 private:
  struct Block {
    int holders = 0;
    bool published = false;
    BlockId older = -1;  // neighbours on the LRU list, while cached
    BlockId newer = -1;
    BlockHash hash;
    std::array<TokenId, kKvBlockTokens> tokens{};
  };

  Block& at(BlockId block) { return blocks_[static_cast<std::size_t>(block)]; }
  const Block& at(BlockId block) const { return blocks_[static_cast<std::size_t>(block)]; }

  void release(BlockId block);
  void append_newest(BlockId block);
  void unlink(BlockId block);
  std::size_t find_slot(const BlockHash& hash) const;
  void erase_hash(const BlockHash& hash);
  void audit_lru() const;
  void audit_table() const;

  std::vector<Block> blocks_;   // [total]
  std::vector<BlockId> free_;   // stack
  std::vector<BlockId> table_;  // open addressing by hash, -1 empty; empty vector: prefix cache off
  std::size_t mask_ = 0;        // table size - 1
  BlockId oldest_ = -1;
  BlockId newest_ = -1;
  int cached_ = 0;
  int held_ = 0;
  int held_high_water_ = 0;
  std::uint64_t evictions_ = 0;
};

}  // namespace nightshift::scheduler
