// SPDX-License-Identifier: Apache-2.0
// Tokens that are found in the text before the model sees it, such as <|im_end|>.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/types.h"
#include "tokenizer/bpe.h"
#include "tokenizer/json_fields.h"

namespace nightshift::tokenizer {

struct AddedToken {
  std::string content;
  bool single_word = false;  // not as a part of a word
  bool left_strip = false;   // takes the white space before it
  bool right_strip = false;  // takes the white space behind it
  bool normalized = false;   // looked for in the normalized text, in its normalized form
  bool special = false;      // dropped by skip_special_tokens
  std::string form;          // what is looked for, and decoded: the content, normalized if the flag says so
};

// A part of a text: a token, or text between tokens (id -1).
struct TextPart {
  std::size_t begin;
  std::size_t end;
  TokenId id;
};

// Leftmost longest search for a set of strings: a byte trie, entered only at bytes that some string begins
// with.
class StringTrie {
 public:
  void add(std::string_view text, TokenId id);
  bool empty() const { return nodes_.size() == 1; }
  // The longest string that begins at or behind `from`, at the leftmost place where one does.
  bool search(std::string_view text, std::size_t from, TextPart& match) const;

 private:
  struct Node {
    TokenId id = -1;
    std::vector<std::pair<char, std::uint32_t>> children;  // few
  };
  std::uint32_t child(std::uint32_t node, char byte) const;  // 0: none

  std::vector<Node> nodes_{1};
  bool begins_[256] = {};
  std::string first_bytes_;
};

class AddedTokens {
 public:
  // `list` is tokenizer.json's "added_tokens". Ids follow from the contents as in the original: the model's
  // own id if it has the token, else the next free one. `normalize` is the tokenizer's normalizer.
  AddedTokens(const Json* list, const Bpe& model, const std::function<std::string(std::string)>& normalize);

  bool any_normalized() const { return !normalized_.empty(); }
  // Cuts a text at the tokens that are looked for before (`normalized` false) or after normalization.
  void split(std::string_view text, bool normalized, std::vector<TextPart>& parts) const;

  const std::unordered_map<TokenId, AddedToken>& by_id() const { return by_id_; }

 private:
  std::unordered_map<TokenId, AddedToken> by_id_;
  StringTrie raw_, normalized_;
};

}  // namespace nightshift::tokenizer
