// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/decoder.h"

#include <cctype>

#include "tokenizer/bpe.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

// The byte of a token such as <0xE4>, or -1.
std::int16_t fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  if (!std::isxdigit(static_cast<unsigned char>(token[3])) ||
      !std::isxdigit(static_cast<unsigned char>(token[4]))) {
    return -1;
  }
  return static_cast<std::int16_t>(std::stoi(std::string(token.substr(3, 2)), nullptr, 16));
}

// Tokens with a character outside the byte alphabet (added tokens) stand for themselves.
std::string bytes_of(const std::string& token) {
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const CodePoint c = code_point_at(token, at);
    const int byte = byte_of_character(c.value);
    if (byte < 0) return token;
    bytes += static_cast<char>(byte);
    at += c.bytes;
  }
  return bytes;
}

std::string strip_content(const Json& step) {
  const auto content = field<std::string>(step, "content");
  if (content.empty()) refuse("a decoder Strip of the content", content);
  return content;
}

std::string strip_ends(std::string text, const std::string& content, int left, int right) {
  for (; left > 0 && text.starts_with(content); --left) text.erase(0, content.size());
  for (; right > 0 && text.ends_with(content); --right) text.erase(text.size() - content.size());
  return text;
}

}  // namespace

Decoder::Decoder(const Json* node, const std::vector<std::string>& forms) : texts_(forms) {
  for (const auto& form : forms) known_.push_back(!form.empty());
  std::vector<const Json*> steps;
  flatten(node, "decoders", steps);
  if (steps.empty()) return;
  mode_ = plain;
  bool fused = false;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Json& step = *steps[i];
    const auto type = field<std::string>(step, "type");
    const bool cross_token =
        fused || byte_fallback_ || mode_ == byte_level;  // single tokens can no longer be told apart
    if (type == "ByteLevel" && !cross_token && steps.size() == 1) {
      mode_ = byte_level;
      for (auto& text : texts_) text = bytes_of(text);
    } else if (type == "Replace" && !cross_token) {
      const auto from = field<std::string>(field<Json>(step, "pattern"), "String");
      const auto to = field<std::string>(step, "content");
      if (from.empty()) refuse("a decoder Replace with the pattern", from);
      for (auto& text : texts_) replace_all(text, from, to);
    } else if (type == "Metaspace" && !cross_token && first_texts_.empty()) {
      const auto mark = field<std::string>(step, "replacement");
      if (mark.empty()) refuse("a decoder Metaspace with the replacement", mark);
      const auto scheme = field_or<bool>(step, "add_prefix_space", true)
                              ? field_or<std::string>(step, "prepend_scheme", "always")
                              : std::string("never");
      first_texts_ = texts_;
      for (auto& text : texts_) replace_all(text, mark, " ");
      for (auto& text : first_texts_) replace_all(text, mark, scheme == "never" ? " " : "");
    } else if (type == "Strip" && !cross_token && first_texts_.empty()) {
      for (auto& text : texts_) {
        text = strip_ends(text, strip_content(step), field<int>(step, "start"), field<int>(step, "stop"));
      }
    } else if (type == "ByteFallback" && !cross_token && first_texts_.empty()) {
      byte_fallback_ = true;
      for (const auto& text : texts_) fallback_byte_.push_back(fallback_byte(text));
    } else if (type == "Fuse" && !fused) {
      fused = true;
    } else if (type == "Strip" && fused && strip_count_ == 0 && field<int>(step, "stop") == 0) {
      strip_content_ = strip_content(step);
      strip_count_ = field<int>(step, "start");
    } else {
      refuse(fmt::format("in place {} of the decoder, a step of type", i + 1).c_str(), type);
    }
  }
}

void Decoder::push(DecoderState& state, TokenId id, std::string& out) const {
  const auto index = static_cast<std::size_t>(id);
  if (id < 0 || index >= texts_.size() || !known_[index]) return;
  const bool first = !std::exchange(state.started, true);
  const std::string& text = first && !first_texts_.empty() ? first_texts_[index] : texts_[index];
  if (mode_ == joined_by_spaces) {
    if (!first) out += ' ';
    out += text;
  } else if (mode_ == byte_level) {
    if (state.held.empty() && valid_prefix(text) == text.size()) {
      out += text;
      return;
    }
    state.held += text;
    state.held.erase(0, append_lossy(out, state.held, true));
  } else if (byte_fallback_ && fallback_byte_[index] >= 0) {
    // Whether a run of byte tokens is text is decided for the run as a whole, so nothing of it can be given
    // out yet.
    state.held += static_cast<char>(fallback_byte_[index]);
  } else {
    end_byte_run(state, out);
    put(state, text, out);
  }
}

void Decoder::finish(DecoderState& state, std::string& out) const {
  if (mode_ == byte_level) append_lossy(out, state.held, false);
  if (mode_ == plain) end_byte_run(state, out);
  state.held.clear();
}

void Decoder::end_byte_run(DecoderState& state, std::string& out) const {
  if (state.held.empty()) return;
  if (valid_prefix(state.held) == state.held.size()) {
    put(state, state.held, out);
  } else {
    for (std::size_t i = 0; i < state.held.size(); ++i) put(state, "\xEF\xBF\xBD", out);
  }
  state.held.clear();
}

// Appends text, less what the Strip behind Fuse takes from the front of the whole.
void Decoder::put(DecoderState& state, std::string_view text, std::string& out) const {
  if (state.strip_left < 0) state.strip_left = strip_count_;
  while (state.strip_left > 0 && !text.empty()) {
    if (!text.starts_with(strip_content_)) {
      state.strip_left = 0;
      break;
    }
    text.remove_prefix(strip_content_.size());
    --state.strip_left;
  }
  out += text;
}

}  // namespace nightshift::tokenizer
