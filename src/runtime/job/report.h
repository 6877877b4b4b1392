// SPDX-License-Identifier: Apache-2.0
// What a job has done, as JSON (root attribute `summary` of the result) and as text. The definitions are
// those of docs/operations.md, section "Report"; a job's arrival time is its first start.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "io/journal.h"
#include "runtime/job/session.h"

namespace nightshift::runtime {

// What the answers themselves say: the same whatever the number of starts, because every answer is in the
// journals once.
class AnswerTotals {
 public:
  void add(const io::ResultRecord& record);

  std::uint64_t answers = 0;  // rows of the result: prompts times n
  std::uint64_t prompts = 0;
  std::map<std::string, std::uint64_t> finish_reasons;
  std::map<std::string, std::uint64_t> failures;  // by the word before the colon of the reason
  std::uint64_t prompt_tokens = 0;
  std::uint64_t cached_tokens = 0;
  std::uint64_t output_tokens = 0;
  bool has_logprobs = false;
  std::int32_t top_k = 0;

  LatencySketch scheduling_delay;       // first scheduled - arrival
  LatencySketch time_to_first_token;    // first token - arrival
  LatencySketch prefill;                // first token - first scheduled
  LatencySketch time_per_output_token;  // (last - first token) / (tokens - 1)
  LatencySketch end_to_end;             // last token - arrival
  LatencySketch normalised;             // end to end / tokens

  std::uint64_t failed() const;
  double failed_share() const {
    return answers == 0 ? 0.0 : static_cast<double>(failed()) / static_cast<double>(answers);
  }
};

AnswerTotals total_answers(const io::JournalIndex& index);  // reads every record once
std::uint64_t count_failed(const io::JournalIndex& index);  // likewise

// One JSON object; `runs` in order of number.
std::string summary_to_json(const Job& job, const AnswerTotals& answers, const std::vector<RunRecord>& runs,
                            const io::JournalHealth& health, bool complete);

// The text report of a summary and, for its heading, of the provenance. Error when either is no report of
// ours.
std::string report_text(const std::string& summary_json, const std::string& provenance_json);

double failed_share_of(const std::string& summary_json);

}  // namespace nightshift::runtime
