// SPDX-License-Identifier: Apache-2.0
// Encoding; bpe.cpp reads the model.
#include <algorithm>

#include "tokenizer/bpe.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

constexpr std::string_view kMetaBytes = "\xE2\x96\x81";  // U+2581, which stands for a space
constexpr std::uint32_t kNoMerge = ~std::uint32_t{0};

}  // namespace

TokenId Bpe::whole(std::string_view piece) const {
  if (!byte_level_) return id_of(piece);
  const auto it = byte_ids_.find(piece);
  return it == byte_ids_.end() ? -1 : it->second;
}

bool Bpe::may_cut_before(std::string_view piece, std::size_t at) const {
  const std::uint32_t before = code_point_at(piece, previous_character(piece, at)).value;
  return !std::binary_search(joined_before_.begin(), joined_before_.end(), before);
}

void Bpe::encode(std::string_view piece, BpeWorkspace& work, std::vector<TokenId>& out) const {
  if (!cuts_words_) return encode_part(piece, work, out);
  if (ignore_merges_) {
    if (const TokenId id = whole(piece); id >= 0) return out.push_back(id);
  }
  std::size_t begin = 0;
  for (auto at = piece.find(kMetaBytes, 1); at != std::string_view::npos;
       at = piece.find(kMetaBytes, at + 1)) {
    if (!may_cut_before(piece, at)) continue;
    encode_part(piece.substr(begin, at - begin), work, out);
    begin = at;
  }
  encode_part(piece.substr(begin), work, out);
}

void Bpe::encode_part(std::string_view part, BpeWorkspace& work, std::vector<TokenId>& out) const {
  WordCache::Slot* slot = nullptr;
  if (part.size() <= WordCache::kMaxBytes) {
    slot = &work.cache.slot(part);
    if (work.cache.holds(*slot, part)) {
      out.insert(out.end(), slot->ids, slot->ids + slot->count);
      return;
    }
  }
  auto& symbols = work.symbols;
  symbols.clear();
  const TokenId id = ignore_merges_ && !cuts_words_ ? whole(part) : -1;
  if (id >= 0) {
    symbols.push_back(id);
  } else {
    constexpr std::size_t kFew = 48;  // where the quadratic loop still beats the heap
    start_symbols(part, symbols);
    if (symbols.size() <= kFew) {
      merge_few(symbols);
    } else {
      merge_many(work);
    }
  }
  out.insert(out.end(), symbols.begin(), symbols.end());
  if (slot && symbols.size() <= WordCache::kMaxIds) work.cache.put(*slot, part, symbols);
}

TokenId Bpe::unit_at(std::string_view part, std::size_t at, std::uint32_t& bytes) const {
  if (byte_level_) {
    bytes = 1;
    return byte_unit_[static_cast<unsigned char>(part[at])];
  }
  const CodePoint c = code_point_at(part, at);
  bytes = c.bytes;
  const std::int32_t page = unit_page_[c.value / kUnitPage];
  return page < 0 ? -1 : unit_ids_[static_cast<std::size_t>(page) + c.value % kUnitPage];
}

// Units of the vocabulary as they are; others as byte tokens, as the unknown token, or as nothing. That an
// unknown token is put down only when the next known unit comes, behind any byte tokens between, is what the
// original does.
void Bpe::start_symbols(std::string_view part, std::vector<TokenId>& symbols) const {
  bool pending = false;
  std::uint32_t bytes = 0;
  for (std::size_t at = 0; at < part.size(); at += bytes) {
    const TokenId id = unit_at(part, at, bytes);
    if (id >= 0) {
      if (pending) symbols.push_back(unknown_);
      pending = false;
      symbols.push_back(id);
      continue;
    }
    const auto spelled =
        byte_level_ ? byte_spell_[static_cast<unsigned char>(part[at])] : fallback_of(part.substr(at, bytes));
    symbols.insert(symbols.end(), spelled.begin(), spelled.end());
    if (!spelled.empty() || !has_unknown_) continue;
    if (unknown_ < 0)
      throw BadInput("the text needs the tokenizer's unknown token, which its vocabulary lacks");
    if (pending && !fuse_unknown_) symbols.push_back(unknown_);
    pending = true;
  }
  if (pending) symbols.push_back(unknown_);
}

void Bpe::merge_few(std::vector<TokenId>& symbols) const {
  std::array<std::uint32_t, 64> ranks;  // of symbol i with symbol i + 1
  std::size_t n = symbols.size();
  const auto rank_at = [&](std::size_t i) {
    const auto* merge = merges_.find(symbols[i], symbols[i + 1]);
    return merge ? merge->rank : kNoMerge;
  };
  for (std::size_t i = 0; i + 1 < n; ++i) ranks[i] = rank_at(i);
  while (n > 1) {
    const auto* best = std::min_element(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(n - 1));
    if (*best == kNoMerge) break;
    const auto at = static_cast<std::size_t>(best - ranks.begin());
    symbols[at] = products_[*best];
    std::copy(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 2,
              symbols.begin() + static_cast<std::ptrdiff_t>(n),
              symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    std::copy(ranks.begin() + static_cast<std::ptrdiff_t>(at) + 1,
              ranks.begin() + static_cast<std::ptrdiff_t>(n) - 1,
              ranks.begin() + static_cast<std::ptrdiff_t>(at));
    --n;
    if (at > 0) ranks[at - 1] = rank_at(at - 1);
    if (at + 1 < n) ranks[at] = rank_at(at);
  }
  symbols.resize(n);
}

// A linked list of symbols and a heap of (rank, position): O(n log n). An entry is stale when its position's
// rank is no longer the one in the entry.
void Bpe::merge_many(BpeWorkspace& work) const {
  std::vector<TokenId>& symbols = work.symbols;
  auto &ranks = work.ranks, &previous = work.previous, &next = work.next;
  auto& heap = work.heap;
  const auto n = static_cast<std::uint32_t>(symbols.size());
  ranks.assign(n, kNoMerge), previous.resize(n), next.resize(n), heap.clear();
  const auto later = std::greater<std::uint64_t>();
  const auto find_rank = [&](std::uint32_t at) {
    const auto* merge = next[at] < n ? merges_.find(symbols[at], symbols[next[at]]) : nullptr;
    ranks[at] = merge ? merge->rank : kNoMerge;
    return merge != nullptr;
  };
  const auto entry = [&](std::uint32_t at) { return std::uint64_t{ranks[at]} << 32 | at; };
  for (std::uint32_t i = 0; i < n; ++i) previous[i] = i - 1, next[i] = i + 1;
  for (std::uint32_t i = 0; i < n; ++i) {
    if (find_rank(i)) heap.push_back(entry(i));
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto offer = [&](std::uint32_t at) {
    if (!find_rank(at)) return;
    heap.push_back(entry(at));
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const std::uint64_t top = heap.back();
    heap.pop_back();
    const auto at = static_cast<std::uint32_t>(top);
    if (ranks[at] != top >> 32) continue;
    const std::uint32_t right = next[at];
    symbols[at] = products_[ranks[at]];
    ranks[right] = kNoMerge;
    symbols[right] = -1;
    next[at] = next[right];
    if (next[at] < n) previous[next[at]] = at;
    offer(at);
    if (at > 0) offer(previous[at]);
  }
  std::erase(symbols, -1);
}

}  // namespace nightshift::tokenizer
