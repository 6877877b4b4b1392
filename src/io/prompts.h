// SPDX-License-Identifier: Apache-2.0
// Input files ("prompts/1"): N prompts in one of three forms, each with an id and its own sampling
// parameters.
//
//   /prompts/text      string [N]                                         one of these three forms
//   /prompts/messages  string [N], each a JSON array of chat messages
//   /prompts/tokens    integer [T] with /prompts/offsets integer [N+1]; prompt i is tokens[offsets[i] :
//   offsets[i+1]] /prompts/id        string or integer [N], unique (row numbers otherwise) /prompts/extra
//   string [N], JSON kept for the way back to JSONL; not read here /params/<name>     [N], any key of
//   [sampling] /params/json       string [N], a JSON object with the rest, "" for none
//
// Strings may be fixed or variable in length, UTF-8 or ASCII; numbers of any width; any chunking and
// compression.
//
// A cell of /params/<name> that stands for the job's default:
//   integer and boolean parameters   -1, or NaN in a float column
//   number parameters                NaN only: -1 is a legal presence_penalty, and a wrong temperature
//   text lists (stop)                the empty string; a cell that begins with [ is a JSON array
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/types.h"

namespace nightshift::io {

using RowId = std::variant<std::int64_t, std::string>;

enum class PromptForm : std::uint8_t { text, messages, tokens };
const char* name_of(PromptForm form);

struct Prompt {
  PromptRow row = 0;
  RowId id;
  PromptForm form = PromptForm::text;
  std::string text;             // the text, or the JSON array of messages
  std::vector<TokenId> tokens;  // form tokens only
  SamplingParams params;        // the job's defaults with this row's columns and JSON applied
  std::string extra_json;       // {"chat_template_kwargs": {...}, "tools": [...]} as far as given, else empty

  // Why this row cannot run; empty when it can. A reason for programs, a colon, a sentence for people:
  // invalid_utf8, bad_messages, bad_tokens, bad_params. Such a row becomes a failed row of the result.
  std::string error;
};

// Names the content of an input file: equal digests mean equal input. Files up to 1 GiB are hashed whole;
// larger ones by 1,024 evenly spaced pieces of 1 MiB (first and last included), so that it stays a matter of
// seconds.
struct InputDigest {
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;  // XXH3-64
  bool whole = true;

  std::string text() const;  // "xxh3-0123456789abcdef-4096", with "-sampled" behind where it applies
  bool operator==(const InputDigest&) const = default;
};
InputDigest digest_file(const std::string& path);

// Opens and checks the structure; reads rows on demand. Memory does not grow with N. Safe to call from
// several threads.
class PromptReader {
 public:
  // BadInput with file, dataset, what is there and what would be legal: not HDF5, cut off, two forms or none,
  // wrong shapes or types, lengths that differ, an unknown parameter column.
  explicit PromptReader(const std::string& path, SamplingParams defaults = {});
  PromptReader(PromptReader&&) noexcept;
  PromptReader& operator=(PromptReader&&) noexcept;
  ~PromptReader();

  const std::string& path() const;
  std::uint64_t rows() const;
  PromptForm form() const;
  bool has_text_ids() const;  // ids are strings; otherwise int64 (row numbers where the file has none)

  // Reads the whole id and offset columns once: BadInput on a repeated id or offsets that fall. Takes at most
  // 128 MiB. For the front end; ranks may skip it.
  void check_all_rows() const;

  // Rows first .. first + count - 1 (clipped to the file). Never throws for what is wrong with a single
  // prompt.
  std::vector<Prompt> read(PromptRow first, std::uint64_t count) const;
  std::vector<RowId> read_ids(PromptRow first, std::uint64_t count) const;

  // Tokens of work in each unit of `unit_rows` rows as far as it can be known without reading the prompts:
  // prompt tokens (form tokens) plus max_tokens (where that column exists). None when neither is known.
  std::optional<std::vector<std::uint64_t>> unit_costs(std::uint64_t unit_rows) const;

  InputDigest digest() const { return digest_file(path()); }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nightshift::io
