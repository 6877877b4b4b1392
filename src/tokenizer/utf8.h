// SPDX-License-Identifier: Apache-2.0
// UTF-8, strictly as the Unicode standard has it (table 3-7): no overlong forms, no surrogates, nothing above
// U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nightshift::tokenizer {

struct CodePoint {
  std::uint32_t value;
  std::uint32_t bytes;  // 1 to 4
};

// The character at text[at]; the text must be valid and `at` a character's first byte.
inline CodePoint code_point_at(std::string_view text, std::size_t at) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + at;
  if (p[0] < 0x80) return {p[0], 1};
  if (p[0] < 0xE0) return {(p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu), 2};
  if (p[0] < 0xF0) return {(p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu), 3};
  return {(p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu), 4};
}

inline bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

// First byte of the character that ends before `at`, in valid text; `at` > 0.
inline std::size_t previous_character(std::string_view text, std::size_t at) {
  do --at;
  while (is_continuation(text[at]));
  return at;
}

void append_utf8(std::string& out, std::uint32_t code_point);

// Bytes of the longest valid UTF-8 prefix.
std::size_t valid_prefix(std::string_view text);

// Appends the text with each maximal ill-formed part replaced by U+FFFD (the practice that Unicode
// recommends, and what Rust's from_utf8_lossy does). With `more_may_come`, stops before an unfinished
// character at the end. Returns the bytes consumed.
std::size_t append_lossy(std::string& out, std::string_view bytes, bool more_may_come);

}  // namespace nightshift::tokenizer
