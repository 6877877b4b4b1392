// SPDX-License-Identifier: Apache-2.0
// The normalizers of tokenizer.json: NFC, NFD, NFKC, NFKD, Replace, Prepend, Strip, ByteLevel and sequences
// of them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/json_fields.h"
#include "tokenizer/pattern.h"

namespace nightshift::tokenizer {

class Normalizer {
 public:
  explicit Normalizer(const Json* node);  // tokenizer.json's "normalizer"; null for none

  bool empty() const { return steps_.empty(); }
  void apply(std::string& text) const;  // valid UTF-8 in and out

 private:
  struct Step {
    enum Kind { nfc, nfd, nfkc, nfkd, prepend, replace_text, replace_pattern, strip, byte_level } kind;
    std::string from, to;
    std::unique_ptr<Pattern> pattern;
    bool left = false, right = false;
  };
  static Step read(const Json& node);
  static std::size_t growth_of(const Step& step);  // bytes out per byte in, at most
  static void apply(const Step& step, std::string& text);

  std::vector<Step> steps_;
};

// Replaces every occurrence, left to right. `from` is not empty.
void replace_all(std::string& text, std::string_view from, std::string_view to);

// Canonical composition (Unicode Standard Annex 15), with the character data of unicode.h deciding what can
// change.
void normalize_nfc(std::string& text);

}  // namespace nightshift::tokenizer
