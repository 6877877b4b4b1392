// SPDX-License-Identifier: Apache-2.0
// From sampled tokens to durable rows: stop strings, text, reasons, latencies.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/io.h"
#include "runtime/intake.h"
#include "runtime/job/session.h"
#include "scheduler/scheduler.h"
#include "tokenizer/tokenizer.h"

namespace nightshift::runtime {

class Emitter {
 public:
  // `counters` takes prompts, tokens and latencies. All references must outlive the emitter.
  Emitter(const tokenizer::Tokenizer& tokenizer, io::ResultJournal& journal, RunCounters& counters)
      : tokenizer_(tokenizer), journal_(journal), counters_(counters) {}

  // A prompt that cannot run: one failed row.
  void fail(const PreparedPrompt& prompt, const std::string& reason, double now);
  // Sample `sample` of `prompt` is from now on known as `id`.
  void start(SequenceId id, const PreparedPrompt& prompt, std::int32_t sample);
  void planned(const BatchPlan& plan, double now);

  // Looks at a step's tokens before they are committed; returns the sequences that must end now, because of a
  // stop string or because their logits were not numbers.
  std::vector<SequenceId> observe(const StepResult& result, double now);
  // Sequences that have run for longer than their max_seconds, in order of id. Once cancelled they become
  // failed rows that keep the answer so far (reason timeout).
  std::vector<SequenceId> overdue(double now) const;
  void timed_out(SequenceId id) { active_.at(id).timed_out = true; }  // it has been cancelled for that
  // Journals what ended.
  void finish(std::vector<scheduler::Finished>&& finished, double now);

  std::size_t active() const { return active_.size(); }

 private:
  struct StopSearch {  // only for prompts with stop strings: others are decoded once, at their end
    tokenizer::StreamDecoder decoder;
    tokenizer::StopMatcher matcher;
    std::string text;
  };
  struct Active {
    PromptRow row = 0;
    std::int32_t sample = 0;
    std::int32_t samples = 1;
    std::int32_t prompt_tokens = 0;
    std::int64_t min_tokens = 0;
    std::int64_t logprobs = 0;
    std::int32_t tokens = 0;
    double started_s = -1.0, first_token_s = 0.0, last_token_s = 0.0;
    double max_seconds = 0.0, since_s = -1.0;  // begun at, in this start
    bool broken = false;                       // NaN logits
    bool timed_out = false;
    std::unique_ptr<StopSearch> stop;
    std::vector<float> chosen_logprobs;
    std::vector<TokenLogprob> top_logprobs;
  };

  void clock(Active& active, double now);
  bool stops(Active& active, TokenId token) const;
  static void keep_logprobs(Active& active, const SampledToken& token);
  io::ResultRecord record(Active& active, scheduler::Finished&& finished) const;
  std::string text_of(Active& active, const scheduler::Finished& finished) const;

  const tokenizer::Tokenizer& tokenizer_;
  io::ResultJournal& journal_;
  RunCounters& counters_;
  std::unordered_map<SequenceId, Active> active_;
  std::size_t timed_ = 0;  // of them, with a bound on their time
};

}  // namespace nightshift::runtime
