// SPDX-License-Identifier: Apache-2.0
// The decoders of tokenizer.json, boiled down to a text per token and the few rules that look across tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"
#include "tokenizer/json_fields.h"

namespace nightshift::tokenizer {

// What a sequence that is being decoded remembers.
struct DecoderState {
  bool started = false;  // a token has been decoded
  int strip_left = -1;   // characters that may still be stripped from the front; -1: not started
  std::string held;      // ByteLevel: an unfinished character; ByteFallback: the bytes of the current run
};

class Decoder {
 public:
  // `node` is tokenizer.json's "decoder"; `forms` are the tokens by id as they are to be decoded.
  Decoder(const Json* node, const std::vector<std::string>& forms);

  // Appends the text that is certain once `id` has come. Ids without a token are ignored.
  void push(DecoderState& state, TokenId id, std::string& out) const;
  void finish(DecoderState& state, std::string& out) const;

 private:
  void end_byte_run(DecoderState& state, std::string& out) const;
  void put(DecoderState& state, std::string_view text, std::string& out) const;

  enum { joined_by_spaces, byte_level, plain } mode_ = joined_by_spaces;
  bool byte_fallback_ = false;
  std::string strip_content_;  // Strip behind Fuse: up to strip_count_ of these from the front of the text
  int strip_count_ = 0;
  std::vector<std::string> texts_;  // by id
  std::vector<std::string>
      first_texts_;  // by id, for the first token, where that differs (Metaspace); else empty
  std::vector<std::int16_t> fallback_byte_;  // by id: the byte that the token stands for, or -1
  std::vector<bool> known_;
};

}  // namespace nightshift::tokenizer
