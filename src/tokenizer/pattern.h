// SPDX-License-Identifier: Apache-2.0
// Regular expressions as tokenizer.json means them: Oniguruma's syntax and search, leftmost match, first
// alternative that fits.
//
// Two engines. Nearly every pattern of a language model is an alternation of runs of character classes; those
// are compiled into class tables and matched by a small backtracking matcher whose depth is bounded by the
// pattern (scan_pattern.cpp). All others go to PCRE2 (pcre2_pattern.cpp).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace nightshift::tokenizer {

struct Span {
  std::size_t begin;
  std::size_t end;
};

class Pattern {
 public:
  virtual ~Pattern() = default;

  // The leftmost match that begins at or behind `from` (a character's border; look-behind sees what is before
  // it).
  virtual bool search(std::string_view text, std::size_t from, Span& match) const = 0;

  // Whether `out` must be searched in place of `text`: same byte offsets, other characters. Asked once per
  // text.
  virtual bool rewrite(std::string_view /*text*/, std::string& /*out*/) const { return false; }

  // Throws BadInput for syntax that neither engine takes with Oniguruma's meaning.
  static std::unique_ptr<Pattern> compile(const std::string& regex);
};

// The scan engine; null when the pattern is not of the kind that it takes.
std::unique_ptr<Pattern> compile_scan_pattern(const std::string& regex);
// Throws BadInput naming what it cannot do.
std::unique_ptr<Pattern> compile_pcre2_pattern(const std::string& regex);

// Walks the matches of a text as Rust's onig crate does: an empty match right behind another match is stepped
// over.
class MatchWalk {
 public:
  MatchWalk(const Pattern& pattern, std::string_view text) : pattern_(pattern), text_(text) {
    if (pattern.rewrite(text, rewritten_)) text_ = rewritten_;
  }
  MatchWalk(const MatchWalk&) = delete;
  MatchWalk& operator=(const MatchWalk&) = delete;
  bool next(Span& match);

 private:
  const Pattern& pattern_;
  std::string rewritten_;
  std::string_view text_;
  std::size_t from_ = 0;
  std::size_t last_end_ = static_cast<std::size_t>(-1);
};

}  // namespace nightshift::tokenizer
