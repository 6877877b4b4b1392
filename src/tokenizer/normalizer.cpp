// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "tokenizer/bpe.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

// Sorts runs of combining marks by their class (canonical ordering). utf8proc would do it by insertion, which
// takes hours for the long runs of marks that a hostile or broken text may hold.
void order_marks(std::vector<utf8proc_int32_t>& text) {
  const auto combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  const auto is_starter = [&](utf8proc_int32_t c) { return combining_class(c) == 0; };
  for (auto begin = text.begin(); begin != text.end();) {
    begin = std::find_if_not(begin, text.end(), is_starter);
    const auto end = std::find_if(begin, text.end(), is_starter);
    std::stable_sort(begin, end, [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

// Appends the normal form of `text` that the UTF8PROC_ options name.
void append_normalized(std::string& out, std::string_view text, int options) {
  const auto flags = static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE);
  const auto decompose =
      static_cast<utf8proc_option_t>((options & UTF8PROC_COMPAT) | UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size() + 8);
  int boundary_class = 0;  // for grapheme borders, which are not asked for
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    std::array<utf8proc_int32_t, 32> parts;  // the longest decomposition has 18
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.value), parts.data(),
                                static_cast<utf8proc_ssize_t>(parts.size()), decompose, &boundary_class);
    NS_CHECK(count >= 0 && static_cast<std::size_t>(count) <= parts.size(), "U+{:04X}", c.value);
    points.insert(points.end(), parts.begin(), parts.begin() + count);
    at += c.bytes;
  }
  order_marks(points);
  if (options & UTF8PROC_COMPOSE) {
    const auto length =
        utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), flags);
    NS_CHECK(length >= 0, "utf8proc: {}", utf8proc_errmsg(length));
    points.resize(static_cast<std::size_t>(length));
  }
  for (const auto c : points) append_utf8(out, static_cast<std::uint32_t>(c));
}

std::size_t ascii_end(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) ++at;
  return at;
}

// Everything but NFC: utf8proc's tables are newer than the reference's, so characters that only utf8proc
// knows stay as they are, and what lies between them is mapped.
void normalize_between_inert(std::string& text, int options) {
  if (ascii_end(text) == text.size()) return;
  std::string out;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (properties(c.value) & kNfcInert) {
      append_normalized(out, std::string_view(text).substr(begin, at - begin), options);
      out.append(text, at, c.bytes);
      begin = at + c.bytes;
    }
    at += c.bytes;
  }
  append_normalized(out, std::string_view(text).substr(begin), options);
  text.swap(out);
}

void strip_white(std::string& text, bool left, bool right) {
  std::size_t begin = 0, end = text.size();
  for (; left && begin < end; begin += code_point_at(text, begin).bytes) {
    if (!is_white(code_point_at(text, begin).value)) break;
  }
  while (right && end > begin) {
    const std::size_t before = previous_character(text, end);
    if (!is_white(code_point_at(text, before).value)) break;
    end = before;
  }
  text = text.substr(begin, end - begin);
}

void replace_matches(std::string& text, const Pattern& pattern, std::string_view to) {
  if (text.empty()) return;
  std::string out;
  std::size_t done = 0;
  MatchWalk walk(pattern, text);
  for (Span match{}; walk.next(match); done = match.end) {
    out.append(text, done, match.begin - done);
    out += to;
  }
  out.append(text, done);
  text.swap(out);
}

void spell_byte_level(std::string& text) {
  std::string out;
  for (const char byte : text) append_utf8(out, byte_character(static_cast<unsigned char>(byte)));
  text.swap(out);
}

}  // namespace

// Only runs of characters that may change are composed, each with the one before it, which they may combine
// with.
void normalize_nfc(std::string& text) {
  std::size_t at = ascii_end(text);
  if (at == text.size()) return;
  std::string out;
  std::size_t done = 0, base = at > 0 ? at - 1 : 0;  // base: the character before `at`, if it can take part
  while (at < text.size()) {
    CodePoint c = code_point_at(text, at);
    if ((properties(c.value) & kNfcAttention) == 0) {
      base = properties(c.value) & kNfcInert ? at + c.bytes : at;
      at += c.bytes;
      continue;
    }
    while (at < text.size() && (properties((c = code_point_at(text, at)).value) & kNfcAttention) != 0)
      at += c.bytes;
    out.append(text, done, base - done);
    append_normalized(out, std::string_view(text).substr(base, at - base), UTF8PROC_COMPOSE);
    done = base = at;
  }
  if (done == 0 && out.empty()) return;
  out.append(text, done);
  text.swap(out);
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::size_t at = text.find(from);
  if (at == std::string::npos) return;
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  std::size_t done = 0;
  for (; at != std::string::npos; at = text.find(from, done)) {
    out.append(text, done, at - done);
    out += to;
    done = at + from.size();
  }
  out.append(text, done);
  text.swap(out);
}

Normalizer::Normalizer(const Json* node) {
  std::vector<const Json*> nodes;
  flatten(node, "normalizers", nodes);
  Growth growth("normalizer");
  for (const Json* step : nodes) {
    steps_.push_back(read(*step));
    growth.add(growth_of(steps_.back()));
  }
}

std::size_t Normalizer::growth_of(const Step& step) {
  switch (step.kind) {
    case Step::nfc:
    case Step::nfd:
      return 4;  // U+0390 becomes three characters of two bytes, U+1D160 three of four
    case Step::nfkc:
    case Step::nfkd:
      return 11;  // U+FDFA: three bytes become 33
    case Step::prepend:
    case Step::replace_pattern:  // which may match between any two bytes
      return step.to.size() + 1;
    case Step::replace_text:
      return step.to.size() / step.from.size() + 1;
    case Step::strip:
      return 1;
    case Step::byte_level:
      return 2;
  }
  return 1;
}

Normalizer::Step Normalizer::read(const Json& node) {
  const auto type = field<std::string>(node, "type");
  static const std::pair<const char*, Step::Kind> kPlain[] = {{"NFC", Step::nfc},
                                                              {"NFD", Step::nfd},
                                                              {"NFKC", Step::nfkc},
                                                              {"NFKD", Step::nfkd},
                                                              {"ByteLevel", Step::byte_level}};
  for (const auto& [name, kind] : kPlain) {
    if (type == name) return Step{kind, {}, {}, nullptr};
  }
  if (type == "Prepend") return Step{Step::prepend, {}, field<std::string>(node, "prepend"), nullptr};
  if (type == "Strip") {
    return Step{Step::strip,
                {},
                {},
                nullptr,
                field_or<bool>(node, "strip_left", true),
                field_or<bool>(node, "strip_right", true)};
  }
  if (type == "Replace") {
    const auto pattern = field<Json>(node, "pattern");
    Step step{Step::replace_text, field_or<std::string>(pattern, "String", ""),
              field<std::string>(node, "content"), nullptr};
    if (!step.from.empty()) return step;
    step.kind = Step::replace_pattern;
    step.pattern = Pattern::compile(field<std::string>(pattern, "Regex"));
    return step;
  }
  refuse("a normalizer of type", type);
}

void Normalizer::apply(const Step& step, std::string& text) {
  switch (step.kind) {
    case Step::nfc:
      return normalize_nfc(text);
    case Step::nfd:
      return normalize_between_inert(text, UTF8PROC_DECOMPOSE);
    case Step::nfkc:
      return normalize_between_inert(text, UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
    case Step::nfkd:
      return normalize_between_inert(text, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
    case Step::prepend:
      if (!text.empty()) text.insert(0, step.to);
      return;
    case Step::replace_text:
      return replace_all(text, step.from, step.to);
    case Step::replace_pattern:
      return replace_matches(text, *step.pattern, step.to);
    case Step::strip:
      return strip_white(text, step.left, step.right);
    case Step::byte_level:
      return spell_byte_level(text);
  }
}

void Normalizer::apply(std::string& text) const {
  for (const Step& step : steps_) apply(step, text);
}

}  // namespace nightshift::tokenizer
