// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/code_set.h"

namespace nightshift::tokenizer {

void CodeSet::add(std::uint32_t first, std::uint32_t end) {
  while (first < end) {
    if (first % 64 == 0 && end - first >= 64) {
      words_[first / 64] = ~std::uint64_t{0};
      first += 64;
    } else {
      words_[first / 64] |= std::uint64_t{1} << (first % 64);
      ++first;
    }
  }
}

void CodeSet::add(const CodeSet& other) {
  for (std::size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
}

void CodeSet::keep(const CodeSet& other) {
  for (std::size_t i = 0; i < words_.size(); ++i) words_[i] &= other.words_[i];
}

void CodeSet::invert() {
  for (auto& word : words_) word = ~word;
}

bool CodeSet::intersects(const CodeSet& other) const {
  for (std::size_t i = 0; i < words_.size(); ++i) {
    if (words_[i] & other.words_[i]) return true;
  }
  return false;
}

bool CodeSet::add_category(std::string_view name) {
  std::uint32_t wanted = 0;  // one bit per category
  for (std::size_t i = 0; i < std::size(kCategoryNames); ++i) {
    const std::string_view full = kCategoryNames[i];
    if (full == name || (name.size() == 1 && full[0] == name[0])) wanted |= 1u << i;
  }
  if (wanted == 0) return false;
  add_where([&](std::uint16_t value) { return wanted >> (value & kCategoryBits) & 1; });
  if (name == "C") add(0xD800, 0xE000);  // surrogates: none in valid text
  return true;
}

void CodeSet::add_word() {
  for (const char* part : {"L", "M", "Nd", "Nl", "Pc"}) add_category(part);
  for (const std::uint32_t c : {0xB2u, 0xB3u, 0xB9u, 0xBCu, 0xBDu, 0xBEu}) add(c);
  add(0x24B6, 0x24EA);  // letters in circles, and from here on in squares
  add(0x1F130, 0x1F14A);
  add(0x1F150, 0x1F16A);
  add(0x1F170, 0x1F18A);
}

}  // namespace nightshift::tokenizer
