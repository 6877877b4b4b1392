// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, exactly as Hugging Face `tokenizers` does it, and chat messages to text.
//
// A model directory is read as it is: tokenizer.json (byte-level BPE and SentencePiece-style BPE with byte
// fallback), tokenizer_config.json, special_tokens_map.json and the chat template files. BPE for subwords:
// Sennrich et al. 2016 (arXiv:1508.07909); byte-level: Radford et al. 2019 (GPT-2). Whatever a tokenizer.json
// asks for that this room does not know is refused by name when it is loaded, never guessed.
//
// All `const` functions of Tokenizer and ChatTemplate may be called from many threads at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "core/types.h"

namespace nightshift::tokenizer {

struct TokenizerParts;  // what is behind the door (tokenizer.cpp)
struct DecoderState;

// Thrown for a text that is not UTF-8: no tokenizer has an answer for it. A failed row, not a failed job.
class InvalidUtf8 : public BadInput {
 public:
  explicit InvalidUtf8(std::size_t byte_offset);
  std::size_t byte_offset() const { return byte_offset_; }  // first byte that cannot belong to a character

 private:
  std::size_t byte_offset_;
};

class Tokenizer {
 public:
  // Reads `model_dir`/tokenizer.json and, where they exist, tokenizer_config.json and
  // special_tokens_map.json.
  static Tokenizer load(const std::filesystem::path& model_dir);

  // `add_special_tokens` runs the post-processor, which adds BOS for the families that want one. Text that
  // comes from a chat template already holds its BOS: encode that with false. Throws InvalidUtf8.
  std::vector<TokenId> encode(std::string_view text, bool add_special_tokens) const;

  // Ids that are not in the vocabulary decode to nothing; bytes that form no character decode to U+FFFD.
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens) const;

  int vocab_size() const;  // largest id + 1: the width of logits that have a token
  std::optional<TokenId> id_of(std::string_view token) const;  // as written in tokenizer.json, e.g. "Ġthe"
  std::string_view token_of(TokenId id) const;                 // empty for ids without a token
  bool is_special(TokenId id) const;                           // dropped by skip_special_tokens
  const std::string& bos_token() const;                        // empty when the model has none
  const std::string& eos_token() const;
  std::optional<TokenId> bos_id() const;
  std::optional<TokenId> eos_id() const;

  const std::string& digest() const;  // 16 hex digits over the files read, for provenance

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::shared_ptr<const TokenizerParts> parts) : parts_(std::move(parts)) {}
  std::shared_ptr<const TokenizerParts> parts_;
};

// Detokenizes one sequence as its tokens arrive. The pieces are whole characters, and all pieces with
// finish() at the end are decode() of all the ids. Keeps its tokenizer's tables alive. For one thread.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  std::string push(TokenId id);  // text that no later token can change; may be empty
  std::string finish();          // what was held back; unfinished characters become U+FFFD

 private:
  std::shared_ptr<const TokenizerParts> parts_;
  std::unique_ptr<DecoderState> state_;
  bool skip_special_;
};

// Finds the first stop string in a text that arrives in pieces, across all piece borders. "First" is the one
// that is complete first (of two that end together, the longer), so the answer depends on the text alone, not
// on its pieces, and is known at once. Text that may still turn out to be part of a stop string is held back.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stop);  // empty strings are refused

  // Returns text that stands before any stop string for certain. Once stopped() nothing more comes.
  std::string push(std::string_view text);
  std::string finish();  // the end of the sequence: hands out what was held back
  bool stopped() const { return matched_ >= 0; }
  int matched() const { return matched_; }  // index of the stop string that was found, or -1

 private:
  std::vector<std::string> stop_;
  std::string held_;
  int matched_ = -1;
};

// A model's Jinja chat template, rendered as transformers' apply_chat_template(tokenize=False) does, by minja
// with its polyfills off.
class ChatTemplate {
 public:
  // `choice` is "auto" (the model directory's own; none if it has none), "none", or a file path.
  // `clock_unix_seconds` is what strftime_now() tells (UTC): fixed per job, so that a restart renders the
  // same prompt.
  static ChatTemplate load(const std::filesystem::path& model_dir, const std::string& choice,
                           std::int64_t clock_unix_seconds);

  bool exists() const {
    return impl_ != nullptr;
  }  // false: the model has no template, or "none" was asked for

  // `messages_json`: array of {"role": ..., "content": ...}. `extra_json`: "" or an object; "tools",
  // "documents", "add_generation_prompt" (true unless given), "continue_final_message" and any variable that
  // the template reads. Throws BadInput with the template's own words where it raises. Encode the result
  // without special tokens.
  std::string render(std::string_view messages_json, std::string_view extra_json = {}) const;

  const std::string& digest() const;  // 16 hex digits over the template text; empty when there is none

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace nightshift::tokenizer
