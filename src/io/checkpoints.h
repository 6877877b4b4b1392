// SPDX-License-Identifier: Apache-2.0
// Answers under way, durable as far as they have come: a restart recomputes their keys and values and goes on
// behind the last token, instead of from the beginning.
//
// An answer's tokens are written once each, in pieces that follow one another, as records of their own kind
// in the journals (journal.h). Everything is a function of the prompt, so pieces of several starts agree
// where they overlap, and any of them may be missing: what joins on from token 0 counts. A result of the same
// sample makes all of them void.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"

namespace nightshift::io {

// Tokens first .. first + tokens.size() - 1 of a sample that has not ended. Times are seconds since the job's
// start.
struct ProgressRecord {
  PromptRow row = 0;
  std::int32_t sample = 0;   // 0 .. samples - 1
  std::int32_t samples = 1;  // answers this prompt gives (n)
  std::int32_t first = 0;
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;    // [tokens], or empty
  std::int32_t top_k = 0;         // columns of `top`
  std::vector<TokenLogprob> top;  // [tokens, top_k] row-major
  double started_s = 0.0;
  double first_token_s = 0.0;
};

// Where the pieces of all answers under way lie. 16 bytes per piece, cheap to copy, for any thread.
class Checkpoints {
 public:
  Checkpoints();  // none

  std::uint64_t size() const;  // samples of which there are pieces
  // What is durable of a row's samples: one record each, `first` 0, in order of sample; those whose first
  // piece has gone bad are left out. Reads the journals.
  std::vector<ProgressRecord> read(PromptRow row) const;

  // For sending to another process that sees the same files.
  std::string encode() const;
  static Checkpoints decode(std::string_view bytes);  // Error when these are no bytes of encode()

 private:
  friend class JournalIndex;
  struct Pieces;
  explicit Checkpoints(std::shared_ptr<const Pieces> pieces) : pieces_(std::move(pieces)) {}
  std::shared_ptr<const Pieces> pieces_;
};

}  // namespace nightshift::io
