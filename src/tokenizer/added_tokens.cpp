// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <cstring>

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

bool word_before(std::string_view text, std::size_t at) {
  return at > 0 && is_word(code_point_at(text, previous_character(text, at)).value);
}

bool word_at(std::string_view text, std::size_t at) {
  return at < text.size() && is_word(code_point_at(text, at).value);
}

std::size_t white_begin_before(std::string_view text, std::size_t at) {
  while (at > 0) {
    const std::size_t before = previous_character(text, at);
    if (!is_white(code_point_at(text, before).value)) break;
    at = before;
  }
  return at;
}

std::size_t white_end_behind(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const CodePoint c = code_point_at(text, at);
    if (!is_white(c.value)) break;
    at += c.bytes;
  }
  return at;
}

}  // namespace

std::uint32_t StringTrie::child(std::uint32_t node, char byte) const {
  for (const auto& [label, target] : nodes_[node].children) {
    if (label == byte) return target;
  }
  return 0;
}

void StringTrie::add(std::string_view text, TokenId id) {
  if (text.empty()) return;
  std::uint32_t node = 0;
  for (const char byte : text) {
    std::uint32_t target = child(node, byte);
    if (target == 0) {
      target = static_cast<std::uint32_t>(nodes_.size());
      nodes_[node].children.emplace_back(byte, target);
      nodes_.emplace_back();
    }
    node = target;
  }
  nodes_[node].id = id;
  if (!std::exchange(begins_[static_cast<unsigned char>(text[0])], true)) first_bytes_ += text[0];
}

bool StringTrie::search(std::string_view text, std::size_t from, TextPart& match) const {
  for (std::size_t at = from; at < text.size(); ++at) {
    if (first_bytes_.size() == 1) {  // mostly '<': let memchr skip ahead
      const void* hit = std::memchr(text.data() + at, first_bytes_[0], text.size() - at);
      if (hit == nullptr) return false;
      at = static_cast<std::size_t>(static_cast<const char*>(hit) - text.data());
    } else {
      while (at < text.size() && !begins_[static_cast<unsigned char>(text[at])]) ++at;
    }
    TokenId id = -1;
    std::size_t end = at;
    std::uint32_t node = 0;
    for (std::size_t i = at; i < text.size(); ++i) {
      node = child(node, text[i]);
      if (node == 0) break;
      if (nodes_[node].id >= 0) id = nodes_[node].id, end = i + 1;
    }
    if (id < 0) continue;
    match = {at, end, id};
    return true;
  }
  return false;
}

AddedTokens::AddedTokens(const Json* list, const Bpe& model,
                         const std::function<std::string(std::string)>& normalize) {
  if (list == nullptr) return;
  auto next = static_cast<TokenId>(model.vocabulary_size());
  std::unordered_map<std::string, TokenId> known;
  for (const Json& entry : *list) {
    AddedToken token;
    token.content = field<std::string>(entry, "content");
    if (token.content.empty()) continue;
    token.single_word = field_or<bool>(entry, "single_word", false);
    token.left_strip = field_or<bool>(entry, "lstrip", false);
    token.right_strip = field_or<bool>(entry, "rstrip", false);
    token.special = field_or<bool>(entry, "special", false);
    token.normalized = field_or<bool>(entry, "normalized", !token.special);
    token.form = token.normalized ? normalize(token.content) : token.content;
    TokenId id = model.id_of(token.content);
    if (const auto it = known.find(token.content); it != known.end()) id = it->second;
    if (id < 0) id = next++;
    known[token.content] = id;
    by_id_[id] = std::move(token);
  }
  for (const auto& [id, token] : by_id_) (token.normalized ? normalized_ : raw_).add(token.form, id);
}

// The arithmetic follows the original to the letter, also where stripping makes neighbours overlap.
void AddedTokens::split(std::string_view text, bool normalized, std::vector<TextPart>& parts) const {
  const StringTrie& trie = normalized ? normalized_ : raw_;
  parts.clear();
  std::size_t done = 0;
  TextPart match{};
  for (std::size_t from = 0; !trie.empty() && trie.search(text, from, match);) {
    from = match.end;
    const AddedToken& token = by_id_.at(match.id);
    if (token.single_word && (word_before(text, match.begin) || word_at(text, match.end))) continue;
    if (token.left_strip) match.begin = std::max(white_begin_before(text, match.begin), done);
    if (token.right_strip) match.end = white_end_behind(text, match.end);
    if (done < match.begin) parts.push_back({done, match.begin, -1});
    parts.push_back(match);
    done = match.end;
  }
  if (done != text.size()) parts.push_back({done, text.size(), -1});
}

}  // namespace nightshift::tokenizer
