// SPDX-License-Identifier: Apache-2.0
#include "scheduler/kv_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <random>

#include "core/check.h"

namespace nightshift::scheduler {
namespace {

std::array<TokenId, kKvBlockTokens> block_of(TokenId first) {
  std::array<TokenId, kKvBlockTokens> tokens{};
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = first + static_cast<TokenId>(i);
  return tokens;
}

TEST(KvBlocks, HashCoversParentAndEveryToken) {
  const auto tokens = block_of(5);
  const BlockHash root = chain_hash({}, tokens);
  EXPECT_EQ(root, chain_hash({}, tokens));
  EXPECT_NE(root, chain_hash(root, tokens));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    auto other = tokens;
    other[i] += 1;
    EXPECT_NE(root, chain_hash({}, other)) << i;
  }
}

TEST(KvBlocks, FreesAndSharesByCount) {
  KvBlocks kv(4, true);
  const auto tokens = block_of(0);
  const BlockHash hash = chain_hash({}, tokens);
  const BlockId block = kv.allocate();
  EXPECT_EQ(kv.lookup(hash, tokens), -1);
  kv.publish(block, hash, tokens);
  EXPECT_EQ(kv.lookup(hash, tokens), block);
  EXPECT_EQ(kv.lookup(hash, block_of(1)), -1) << "a collision of hashes is no hit";
  kv.share(block);
  const std::array chain{block};
  kv.release(chain);
  EXPECT_EQ(kv.held(), 1);
  kv.release(chain);
  EXPECT_EQ(kv.held(), 0);
  EXPECT_EQ(kv.cached(), 1);
  EXPECT_EQ(kv.lookup(hash, tokens), block) << "released, but still worth keeping";
  EXPECT_THROW(kv.release(chain), Error);
  kv.audit(std::array{0, 0, 0, 0});
}

TEST(KvBlocks, EqualContentIsPublishedOnce) {
  KvBlocks kv(2, true);
  const auto tokens = block_of(0);
  const BlockHash hash = chain_hash({}, tokens);
  const std::array chain{kv.allocate(), kv.allocate()};
  kv.publish(chain[0], hash, tokens);
  kv.publish(chain[1], hash, tokens);
  EXPECT_EQ(kv.lookup(hash, tokens), chain[0]);
  kv.release(chain);
  EXPECT_EQ(kv.cached(), 1);
  EXPECT_EQ(kv.free(), 1);
}

TEST(KvBlocks, EvictsTheTailOfTheLeastRecentChainFirst) {
  KvBlocks kv(6, true);
  std::vector<std::vector<BlockHash>> hashes(2);
  for (int chain = 0; chain < 2; ++chain) {
    std::vector<BlockId> blocks;
    for (int i = 0; i < 3; ++i) {
      auto& h = hashes[static_cast<std::size_t>(chain)];
      h.push_back(chain_hash(h.empty() ? BlockHash{} : h.back(), block_of(chain * 1000 + i)));
      blocks.push_back(kv.allocate());
      kv.publish(blocks.back(), h.back(), block_of(chain * 1000 + i));
    }
    kv.release(blocks);
  }
  EXPECT_EQ(kv.free(), 0);
  for (int gone = 0; gone < 6; ++gone) {
    for (int i = 0; i < 6; ++i) {  // eviction order: chain 0 from its tail, then chain 1 from its tail
      const int chain = i / 3, position = 2 - i % 3;
      const auto& hash = hashes[static_cast<std::size_t>(chain)][static_cast<std::size_t>(position)];
      EXPECT_EQ(kv.lookup(hash, block_of(chain * 1000 + position)) >= 0, i >= gone);
    }
    kv.allocate();
  }
  EXPECT_EQ(kv.evictions(), 6U);
  EXPECT_THROW(kv.allocate(), Error);
}

TEST(KvBlocks, CacheOffKeepsNothing) {
  KvBlocks kv(2, false);
  const auto tokens = block_of(0);
  const std::array chain{kv.allocate()};
  kv.publish(chain[0], chain_hash({}, tokens), tokens);
  EXPECT_EQ(kv.lookup(chain_hash({}, tokens), tokens), -1);
  kv.release(chain);
  EXPECT_EQ(kv.free(), 2);
}

TEST(KvBlocks, AuditSeesAMissingHolder) {
  KvBlocks kv(3, true);
  const BlockId block = kv.allocate();
  std::vector<int> holders(3, 0);
  EXPECT_THROW(kv.audit(holders), Error);
  holders[static_cast<std::size_t>(block)] = 1;
  kv.audit(holders);
  holders[static_cast<std::size_t>(block)] = 2;
  EXPECT_THROW(kv.audit(holders), Error);
}

// Against a plain model of the same rules: a list of least recently used contents. Few hash buckets, so that
// the table's probing and deletion are exercised.
TEST(KvBlocks, AgreesWithAPlainModel) {
  std::mt19937_64 random(1);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  for (int round = 0; round < 200; ++round) {
    const int total = 1 + static_cast<int>(below(12));
    KvBlocks kv(total, true);
    std::map<int, BlockId> published;  // content -> block
    std::map<BlockId, int> content;    // published blocks
    std::list<BlockId> lru;
    std::vector<BlockId> held;  // one entry per holder
    std::vector<int> holders(static_cast<std::size_t>(total), 0);
    for (int step = 0; step < 400; ++step) {
      const int wanted = static_cast<int>(below(20));
      const auto tokens = block_of(wanted * 100);
      const BlockHash hash{static_cast<std::uint64_t>(wanted % 3) * 31, static_cast<std::uint64_t>(wanted)};
      const BlockId hit = kv.lookup(hash, tokens);
      ASSERT_EQ(hit, published.contains(wanted) ? published[wanted] : -1);
      if (hit >= 0 && below(2) == 0) {
        if (holders[static_cast<std::size_t>(hit)]++ == 0) lru.remove(hit);
        kv.share(hit);
        held.push_back(hit);
      } else if (kv.available() > 0 && below(2) == 0) {
        const bool evicts = kv.free() == 0;
        const BlockId block = kv.allocate();
        if (evicts) {
          ASSERT_EQ(block, lru.front());
          lru.pop_front();
          published.erase(content[block]);
          content.erase(block);
        }
        ASSERT_EQ(holders[static_cast<std::size_t>(block)]++, 0);
        held.push_back(block);
        if (below(4) != 0) {
          kv.publish(block, hash, tokens);
          if (published.emplace(wanted, block).second) content[block] = wanted;
        }
      } else if (!held.empty()) {
        const std::size_t which = below(held.size());
        const std::array chain{held[which]};
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
        kv.release(chain);
        if (--holders[static_cast<std::size_t>(chain[0])] == 0 && content.contains(chain[0]))
          lru.push_back(chain[0]);
      }
      kv.audit(holders);
      ASSERT_EQ(kv.cached(), static_cast<int>(lru.size()));
    }
  }
}

}  // namespace
}  // namespace nightshift::scheduler
