// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding of one piece of text (Sennrich et al. 2016): start from characters or bytes, and merge
// the neighbours whose merge was learnt first, leftmost first, until none is left.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/types.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/word_cache.h"

namespace nightshift::tokenizer {

// Memory that one call of encode needs; reused from call to call.
struct BpeWorkspace {
  WordCache cache;
  std::vector<TokenId> symbols;
  std::vector<std::uint32_t> ranks, previous, next;
  std::vector<std::uint64_t> heap;
};

// (left id, right id) -> rank and product. Open addressing at a load of at most one half.
class MergeTable {
 public:
  struct Entry {
    std::uint64_t pair = ~std::uint64_t{0};
    std::uint32_t rank = 0;
    TokenId product = 0;
  };

  void reserve(std::size_t merges);
  void insert(TokenId left, TokenId right, std::uint32_t rank, TokenId product);  // a later one wins
  const Entry* find(TokenId left, TokenId right) const {
    const std::uint64_t pair = key(left, right);
    for (std::size_t i = slot(pair);; i = (i + 1) & mask_) {
      if (entries_[i].pair == pair) return &entries_[i];
      if (entries_[i].pair == ~std::uint64_t{0}) return nullptr;
    }
  }

 private:
  static std::uint64_t key(TokenId left, TokenId right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }
  std::size_t slot(std::uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15u) >> shift_; }

  std::vector<Entry> entries_;
  std::size_t mask_ = 0;
  int shift_ = 63;
};

class Bpe {
 public:
  // `model` is tokenizer.json's "model". With `byte_level`, pieces are given as they are in the text, and the
  // vocabulary is read through GPT-2's byte alphabet; else pieces are made of the vocabulary's own
  // characters.
  Bpe(const Json& model, bool byte_level);

  void encode(std::string_view piece, BpeWorkspace& work, std::vector<TokenId>& out) const;

  const std::vector<std::string>& tokens() const {
    return tokens_;
  }  // by id, as written; "" where there is none
  std::size_t vocabulary_size() const { return ids_.size(); }
  TokenId id_of(std::string_view token) const;  // as written; -1 if there is none

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  using Ids = std::unordered_map<std::string, TokenId, Hash, std::equal_to<>>;

  static constexpr std::size_t kUnitPage = 256;  // characters

  void read_vocabulary(const Json& model);
  void read_merges(const Json& model);
  std::pair<std::string, std::string> split_merge(const std::string& line) const;
  void add_merge(const std::string& left, const std::string& right, std::uint32_t rank);
  void make_unit_tables(bool byte_level);
  std::vector<TokenId> fallback_of(std::string_view unit) const;

  TokenId whole(std::string_view piece) const;
  void encode_part(std::string_view part, BpeWorkspace& work, std::vector<TokenId>& out) const;
  void start_symbols(std::string_view part, std::vector<TokenId>& symbols) const;
  TokenId unit_at(std::string_view part, std::size_t at, std::uint32_t& bytes) const;
  void merge_few(std::vector<TokenId>& symbols) const;
  void merge_many(BpeWorkspace& work) const;
  bool may_cut_before(std::string_view piece, std::size_t at) const;

  bool byte_level_;
  bool ignore_merges_ = false, byte_fallback_ = false, fuse_unknown_ = false;
  bool has_unknown_ = false;
  TokenId unknown_ = -1;
  std::vector<std::string> tokens_;
  Ids ids_;       // as written
  Ids byte_ids_;  // byte_level: raw bytes -> id, for ignore_merges
  MergeTable merges_;
  std::vector<TokenId> products_;  // by rank

  // Units that pieces start from: bytes (byte_level) or characters.
  std::array<TokenId, 256> byte_unit_{};              // id or -1
  std::array<std::vector<TokenId>, 256> byte_spell_;  // byte_level: fallback of an unknown byte's character
  std::array<TokenId, 256> fallback_{};               // ids of <0x00> to <0xFF>, or -1
  std::vector<std::int32_t> unit_page_;               // characters: page -> offset into unit_ids_, or -1
  std::vector<TokenId> unit_ids_;

  // Characters that stand before U+2581 inside some token. Between any other character and U+2581 no merge
  // can reach across, so a text is cut there and its words are encoded one by one, from the cache: same ids,
  // linear time.
  bool cuts_words_ = false;
  std::vector<std::uint32_t> joined_before_;
};

// The byte alphabet of GPT-2: each byte as a printable character.
std::uint32_t byte_character(unsigned char byte);
int byte_of_character(std::uint32_t code_point);  // -1 for characters outside the alphabet

}  // namespace nightshift::tokenizer
