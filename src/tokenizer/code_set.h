// SPDX-License-Identifier: Apache-2.0
// A set of code points as a bitmap (136 KiB), used while a pattern is compiled, not while it is matched.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/unicode.h"

namespace nightshift::tokenizer {

class CodeSet {
 public:
  CodeSet() : words_(kCodePointEnd / 64) {}

  bool contains(std::uint32_t c) const { return words_[c / 64] >> (c % 64) & 1; }
  void add(std::uint32_t first, std::uint32_t end);  // [first, end)
  void add(std::uint32_t c) { add(c, c + 1); }
  void add(const CodeSet& other);
  void keep(const CodeSet& other);  // intersection
  void invert();
  bool intersects(const CodeSet& other) const;
  bool operator==(const CodeSet&) const = default;

  // Adds every code point whose properties satisfy wanted(properties).
  template <class Wanted>
  void add_where(Wanted wanted) {
    for_each_run([&](std::uint32_t first, std::uint32_t end, std::uint16_t value) {
      if (wanted(value)) add(first, end);
    });
  }

  // \p{name}: a general category ("Lu") or a group of them ("L"). False for names that are neither.
  bool add_category(std::string_view name);
  void add_word();  // Oniguruma's \w: alphabetic characters, marks, digits, connectors, and six of Latin-1

 private:
  std::vector<std::uint64_t> words_;
};

}  // namespace nightshift::tokenizer
