// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizers of tokenizer.json: they cut a text into the pieces inside which merges may happen.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/json_fields.h"
#include "tokenizer/pattern.h"

namespace nightshift::tokenizer {

// Takes the pieces, in order; none is empty. A piece is valid during the call only.
class PieceSink {
 public:
  virtual ~PieceSink() = default;
  virtual void piece(std::string_view text) = 0;
};

// What becomes of the matches of a splitting pattern.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

class PreTokenizer {
 public:
  explicit PreTokenizer(const Json* node);  // tokenizer.json's "pre_tokenizer"; null for none
  ~PreTokenizer();

  // The last step is ByteLevel: pieces come as the bytes of the text, to be read through the byte alphabet.
  bool ends_byte_level() const;

  // `at_start`: the text begins where the input begins, which decides whether Metaspace's "first" puts its
  // mark.
  void run(std::string_view text, bool at_start, PieceSink& sink) const {
    run_stage(0, text, at_start, sink);
  }

 private:
  struct Stage;
  class Cutter;

  static std::vector<Stage> read(const Json& node);
  void run_stage(std::size_t index, std::string_view text, bool at_start, PieceSink& sink) const;
  void split(std::size_t index, std::string_view text, bool at_start, PieceSink& sink) const;

  std::vector<Stage> stages_;
};

}  // namespace nightshift::tokenizer
