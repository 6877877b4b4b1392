// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pattern.h"

#include "core/check.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {

std::unique_ptr<Pattern> Pattern::compile(const std::string& regex) {
  if (auto pattern = compile_scan_pattern(regex)) return pattern;
  return compile_pcre2_pattern(regex);
}

bool MatchWalk::next(Span& match) {
  while (from_ <= text_.size()) {
    if (!pattern_.search(text_, from_, match)) return false;
    if (match.begin != match.end || match.end != last_end_) {
      from_ = last_end_ = match.end;
      return true;
    }
    from_ += from_ < text_.size() ? code_point_at(text_, from_).bytes : 1;
  }
  return false;
}

}  // namespace nightshift::tokenizer
