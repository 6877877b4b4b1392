// SPDX-License-Identifier: Apache-2.0
// Character properties, fixed for all machines: the tables are part of the program, not of a system library
// whose Unicode version changes from one distribution to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace nightshift::tokenizer {

// General categories in the order of the generated table.
enum class Category : std::uint8_t {
  Cn,
  Cc,
  Cf,
  Co,
  Ll,
  Lm,
  Lo,
  Lt,
  Lu,
  Mc,
  Me,
  Mn,
  Nd,
  Nl,
  No,
  Pc,
  Pd,
  Pe,
  Pf,
  Pi,
  Po,
  Ps,
  Sc,
  Sk,
  Sm,
  So,
  Zl,
  Zp,
  Zs
};
inline constexpr const char* kCategoryNames[] = {"Cn", "Cc", "Cf", "Co", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc",
                                                 "Me", "Mn", "Nd", "Nl", "No", "Pc", "Pd", "Pe", "Pf", "Pi",
                                                 "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"};

// Flags beside the category (low five bits).
enum : std::uint16_t {
  kCategoryBits = 0x1F,
  kWhite = 1 << 5,        // White_Space
  kNumeric = 1 << 6,      // Rust's char::is_numeric
  kPunctuation = 1 << 7,  // what the Punctuation pre-tokenizer splits at
  kWord = 1 << 8,         // \w of the Rust regex crate
  kNfcAttention =
      1 << 9,  // may change, move or combine under NFC; all others are boundaries that NFC leaves alone
  kNfcInert = 1 << 10,  // newer than the normalization table in use: never decomposed, moved or combined
};

inline constexpr std::uint32_t kCodePointEnd = 0x110000;

std::uint16_t properties(std::uint32_t code_point);

inline Category category(std::uint32_t code_point) {
  return static_cast<Category>(properties(code_point) & kCategoryBits);
}
inline bool is_white(std::uint32_t code_point) {
  return properties(code_point) & kWhite;
}
inline bool is_word(std::uint32_t code_point) {
  return properties(code_point) & kWord;
}

// Runs of equal properties over all code points, in order: first code point << 11 | properties.
extern const std::uint32_t kUnicodeRuns[];
extern const std::size_t kUnicodeRunCount;

// Calls visit(first, end, properties) for every run.
template <class Visit>
void for_each_run(Visit visit) {
  for (std::size_t i = 0; i < kUnicodeRunCount; ++i) {
    const std::uint32_t end = i + 1 < kUnicodeRunCount ? kUnicodeRuns[i + 1] >> 11 : kCodePointEnd;
    visit(kUnicodeRuns[i] >> 11, end, static_cast<std::uint16_t>(kUnicodeRuns[i] & 0x7FF));
  }
}

}  // namespace nightshift::tokenizer
