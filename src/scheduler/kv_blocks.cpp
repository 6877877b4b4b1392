// SPDX-License-Identifier: Apache-2.0
#include "scheduler/kv_blocks.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>

#include "core/check.h"

namespace nightshift::scheduler {

BlockHash chain_hash(const BlockHash& parent, BlockTokens tokens) {
  struct {
    BlockHash parent;
    std::array<TokenId, kKvBlockTokens> tokens;
  } key{parent, {}};
  std::copy(tokens.begin(), tokens.end(), key.tokens.begin());
  static_assert(sizeof(key) == sizeof(BlockHash) + kKvBlockTokens * sizeof(TokenId),
                "no padding may be hashed");
  const XXH128_hash_t hash = XXH3_128bits(&key, sizeof key);
  return {hash.low64, hash.high64};
}

KvBlocks::KvBlocks(int total, bool prefix_cache) {
  NS_CHECK(total > 0, "a KV pool of {} blocks", total);
  blocks_.resize(static_cast<std::size_t>(total));
  free_.reserve(blocks_.size());
  for (BlockId block = total - 1; block >= 0; --block) free_.push_back(block);
  if (!prefix_cache) return;
  table_.assign(std::bit_ceil(blocks_.size() * 2), -1);  // at most half full, so probes stay short
  mask_ = table_.size() - 1;
}

BlockId KvBlocks::allocate() {
  NS_CHECK(available() > 0, "no KV block is free or cached, all {} are held", total());
  BlockId block = -1;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else {
    block = oldest_;
    unlink(block);
    erase_hash(at(block).hash);
    at(block).published = false;
    ++evictions_;
  }
  at(block).holders = 1;
  held_high_water_ = std::max(held_high_water_, ++held_);
  return block;
}

BlockId KvBlocks::lookup(const BlockHash& hash, BlockTokens tokens) const {
  if (!prefix_cache()) return -1;
  const BlockId block = table_[find_slot(hash)];
  if (block < 0 || !std::equal(tokens.begin(), tokens.end(), at(block).tokens.begin())) return -1;
  return block;
}

void KvBlocks::share(BlockId block) {
  NS_DCHECK(at(block).published, "block {}", block);
  if (at(block).holders++ > 0) return;
  unlink(block);
  held_high_water_ = std::max(held_high_water_, ++held_);
}

void KvBlocks::publish(BlockId block, const BlockHash& hash, BlockTokens tokens) {
  if (!prefix_cache() || at(block).published) return;
  NS_DCHECK(at(block).holders > 0, "block {}", block);
  const std::size_t slot = find_slot(hash);
  if (table_[slot] >= 0) return;
  table_[slot] = block;
  Block& b = at(block);
  b.published = true;
  b.hash = hash;
  std::copy(tokens.begin(), tokens.end(), b.tokens.begin());
}

void KvBlocks::release(std::span<const BlockId> chain) {
  for (auto block = chain.rbegin(); block != chain.rend(); ++block) release(*block);
}

void KvBlocks::release(BlockId block) {
  NS_CHECK(at(block).holders > 0, "KV block {} released more often than held", block);
  if (--at(block).holders > 0) return;
  --held_;
  if (at(block).published)
    append_newest(block);
  else
    free_.push_back(block);
}

void KvBlocks::append_newest(BlockId block) {
  at(block).older = newest_;
  at(block).newer = -1;
  (newest_ >= 0 ? at(newest_).newer : oldest_) = block;
  newest_ = block;
  ++cached_;
}

void KvBlocks::unlink(BlockId block) {
  const Block& b = at(block);
  (b.older >= 0 ? at(b.older).newer : oldest_) = b.newer;
  (b.newer >= 0 ? at(b.newer).older : newest_) = b.older;
  --cached_;
}

// The slot that holds this hash, or the empty one where it would go.
std::size_t KvBlocks::find_slot(const BlockHash& hash) const {
  std::size_t slot = hash.low & mask_;
  while (table_[slot] >= 0 && at(table_[slot]).hash != hash) slot = (slot + 1) & mask_;
  return slot;
}

// Deletes without tombstones (Knuth, vol. 3, 6.4 R): entries behind the hole move up if they hash to or
// before it.
void KvBlocks::erase_hash(const BlockHash& hash) {
  std::size_t hole = find_slot(hash);
  for (std::size_t slot = (hole + 1) & mask_; table_[slot] >= 0; slot = (slot + 1) & mask_) {
    const std::size_t home = at(table_[slot]).hash.low & mask_;
    if (((slot - home) & mask_) < ((slot - hole) & mask_)) continue;
    table_[hole] = table_[slot];
    hole = slot;
  }
  table_[hole] = -1;
}

void KvBlocks::audit(std::span<const int> holders) const {
  NS_CHECK(holders.size() == blocks_.size(), "{} counts for {} blocks", holders.size(), blocks_.size());
  int held = 0;
  for (BlockId block = 0; block < total(); ++block) {
    const int expected = holders[static_cast<std::size_t>(block)];
    NS_CHECK(at(block).holders == expected, "block {}: ledger says {} holders, sequences say {}", block,
             at(block).holders, expected);
    held += expected > 0;
  }
  NS_CHECK(held == held_, "{} blocks held, ledger says {}", held, held_);
  NS_CHECK(free() + cached_ + held_ == total(), "free {} + cached {} + held {} != total {}", free(), cached_,
           held_, total());
  std::vector<bool> on_stack(blocks_.size());
  for (const BlockId block : free_) {
    NS_CHECK(at(block).holders == 0 && !at(block).published, "block {} is on the free stack", block);
    NS_CHECK(!on_stack[static_cast<std::size_t>(block)], "block {} is on the free stack twice", block);
    on_stack[static_cast<std::size_t>(block)] = true;
  }
  audit_lru();
  audit_table();
}

void KvBlocks::audit_lru() const {
  int seen = 0;
  BlockId older = -1;
  for (BlockId block = oldest_; block >= 0; block = at(block).newer) {
    NS_CHECK(++seen <= cached_, "the LRU list is longer than the {} cached blocks", cached_);
    NS_CHECK(at(block).holders == 0 && at(block).published, "block {} is on the LRU list", block);
    NS_CHECK(at(block).older == older, "block {}: wrong LRU neighbour", block);
    older = block;
  }
  NS_CHECK(seen == cached_ && older == newest_, "the LRU list has {} of {} blocks", seen, cached_);
}

void KvBlocks::audit_table() const {
  if (!prefix_cache()) return;
  int published = 0;
  for (BlockId block = 0; block < total(); ++block) {
    if (!at(block).published) continue;
    ++published;
    NS_CHECK(table_[find_slot(at(block).hash)] == block, "block {} is not found under its hash", block);
  }
  const auto entries = std::count_if(table_.begin(), table_.end(), [](BlockId block) { return block >= 0; });
  NS_CHECK(entries == published, "{} hash entries for {} published blocks", entries, published);
}

}  // namespace nightshift::scheduler
