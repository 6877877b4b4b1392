// SPDX-License-Identifier: Apache-2.0
// Remembers the tokens of recent short pieces. Fixed size, direct-mapped: a new piece takes the slot of an
// older one. Not shared between threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string_view>

#include "core/types.h"

namespace nightshift::tokenizer {

class WordCache {
 public:
  static constexpr std::size_t kMaxBytes = 61;
  static constexpr std::size_t kMaxIds = 15;

  struct Slot {  // two cache lines; zero bytes mean empty
    std::uint16_t tag;
    std::uint8_t bytes;
    char text[kMaxBytes];
    std::uint32_t count;
    TokenId ids[kMaxIds];
  };

  WordCache() : slots_(static_cast<Slot*>(std::calloc(kSlots, sizeof(Slot)))) {
    if (!slots_) throw std::bad_alloc();
  }

  // The slot where the piece (1 to kMaxBytes bytes) is or may be put.
  Slot& slot(std::string_view piece) {
    const std::uint64_t h = hash(piece);
    Slot& s = slots_.get()[h >> (64 - kSlotBits)];
    tag_ = static_cast<std::uint16_t>(h);
    return s;
  }
  bool holds(const Slot& slot, std::string_view piece) const {
    return slot.bytes == piece.size() && slot.tag == tag_ &&
           std::memcmp(slot.text, piece.data(), piece.size()) == 0;
  }
  void put(Slot& slot, std::string_view piece, std::span<const TokenId> ids) {
    slot.tag = tag_;
    slot.bytes = static_cast<std::uint8_t>(piece.size());
    std::memcpy(slot.text, piece.data(), piece.size());
    slot.count = static_cast<std::uint32_t>(ids.size());
    std::copy(ids.begin(), ids.end(), slot.ids);  // may be none: characters that the vocabulary lacks
  }

 private:
  static constexpr int kSlotBits = 15;
  static constexpr std::size_t kSlots = std::size_t{1} << kSlotBits;  // 4 MiB

  static std::uint64_t hash(std::string_view piece) {
    constexpr std::uint64_t kFactor = 0x9E3779B97F4A7C15u;
    std::uint64_t h = piece.size() * kFactor, word = 0;
    const char* p = piece.data();
    std::size_t left = piece.size();
    for (; left >= 8; left -= 8, p += 8) {
      std::memcpy(&word, p, 8);
      h = (h ^ word) * kFactor;
      h ^= h >> 32;
    }
    word = 0;
    std::memcpy(&word, p, left);
    h = (h ^ word) * kFactor;
    return (h ^ (h >> 29)) * kFactor;
  }

  struct Free {
    void operator()(Slot* slots) const { std::free(slots); }
  };
  std::unique_ptr<Slot, Free> slots_;
  std::uint16_t tag_ = 0;
};

}  // namespace nightshift::tokenizer
