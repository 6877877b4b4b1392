// SPDX-License-Identifier: Apache-2.0
// Result files ("results/1"): one row per prompt in input order; with n > 1, one row per sample, samples of a
// prompt next to each other. R rows, T output tokens in all, K alternatives per token.
//
//   /results/id              as given (string, or int64)    [R]
//   /results/row, sample     uint64, int32                  [R]      input row; sample within it
//   /results/text, error     string, UTF-8, variable length [R]
//   /results/tokens          int32 [T]   /results/offsets uint64 [R+1]
//   /results/finish_reason   enum uint8                     [R]
//   /results/prompt_tokens, output_tokens, cached_tokens  int32 [R]
//   /results/started_s, first_token_s, finished_s         float64 [R], seconds since the job's start
//   /results/logprobs        float32 [T]                    when asked for; NaN for tokens without one
//   /results/top_tokens      int32 [T, K]  /results/top_logprobs float32 [T, K]   K > 0; -1 and NaN where
//   fewer
//
// In text and error, what HDF5 strings cannot hold is replaced by U+FFFD: U+0000 and bytes that are not
// UTF-8.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "io/journal.h"
#include "io/prompts.h"

namespace nightshift::io {

struct ResultSummary {
  std::uint64_t prompts = 0;
  std::uint64_t rows = 0;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t output_tokens = 0;
  std::uint64_t cached_tokens = 0;
  std::uint64_t failed = 0;
  std::uint64_t cancelled = 0;
  std::map<std::string, std::uint64_t> failures;  // by reason: what stands before the colon of `error`
  std::uint64_t bytes = 0;                        // of the file; 0 until it is complete
};

struct ResultOptions {
  bool partial = false;  // rows without an answer become "cancelled" rows; otherwise they are an Error
  bool logprobs = false;
  std::int32_t top_k = 0;
  int deflate =
      0;  // 0: none; 1..9 with byte shuffle. Number columns only: HDF5 does not compress variable strings
  std::string provenance = "{}";  // root attribute, JSON
  // Makes the root attribute "summary" (JSON) once all rows are counted; none: just these counts.
  std::function<std::string(const ResultSummary&)> summary = {};
};

// Writes PATH from the journals: under a temporary name beside it, flushed, synced, reopened and compared
// with the journals in its counts and in a sample of rows, then renamed. Error leaves PATH as it was.
ResultSummary write_results(const std::string& path, const PromptReader& prompts, const JournalIndex& index,
                            const ResultOptions& options = {});

// Removes unfinished files under temporary names that killed runs left beside PATH; returns how many. Only
// under the job's lock: another writer's file looks the same.
std::uint64_t remove_leftovers(const std::string& path);

}  // namespace nightshift::io
