// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/utf8.h"

#include <cstring>

namespace nightshift::tokenizer {
namespace {

struct Sequence {
  std::size_t
      length;  // bytes that are well-formed so far: the whole character, or the part before the offence
  enum { complete, broken, unfinished } state;
};

// Looks at the sequence that starts at text[at].
Sequence sequence_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, Sequence::complete};
  if (lead < 0xC2 || lead > 0xF4) return {1, Sequence::broken};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (std::size_t i = 1; i < length; ++i) {
    if (at + i == text.size()) return {i, Sequence::unfinished};
    unsigned low = 0x80, high = 0xBF;
    if (i == 1) {  // the second byte excludes overlong forms, surrogates and what lies above U+10FFFF
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (byte(i) < low || byte(i) > high) return {i, Sequence::broken};
  }
  return {length, Sequence::complete};
}

// Bytes below 0x80 from `at` on, eight at a time.
std::size_t ascii_run(std::string_view text, std::size_t at) {
  std::size_t end = at;
  for (std::uint64_t word; end + 8 <= text.size(); end += 8) {
    std::memcpy(&word, text.data() + end, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (end < text.size() && static_cast<unsigned char>(text[end]) < 0x80) ++end;
  return end - at;
}

}  // namespace

void append_utf8(std::string& out, std::uint32_t c) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6)), tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12)), tail(6), tail(0);
  } else {
    out += static_cast<char>(0xF0 | (c >> 18)), tail(12), tail(6), tail(0);
  }
}

std::size_t valid_prefix(std::string_view text) {
  std::size_t at = 0;
  while (true) {
    at += ascii_run(text, at);
    if (at == text.size()) return at;
    const Sequence s = sequence_at(text, at);
    if (s.state != Sequence::complete) return at;
    at += s.length;
  }
}

std::size_t append_lossy(std::string& out, std::string_view bytes, bool more_may_come) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const std::size_t good = valid_prefix(bytes.substr(at));
    out.append(bytes, at, good);
    at += good;
    if (at == bytes.size()) break;
    const Sequence s = sequence_at(bytes, at);
    if (s.state == Sequence::unfinished && more_may_come) break;
    out += "\xEF\xBF\xBD";
    at += s.length;
  }
  return at;
}

}  // namespace nightshift::tokenizer
