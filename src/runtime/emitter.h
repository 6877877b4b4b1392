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
#include "runtime/job/in_work.h"
#include "runtime/job/session.h"
#include "scheduler/scheduler.h"
#include "tokenizer/tokenizer.h"

namespace nightshift::runtime {

class Emitter {
 public:
  // `counters` takes prompts, tokens and latencies. All references must outlive the emitter.
  // `in_work`, which may be null, is told what has begun and what has ended.
  Emitter(const tokenizer::Tokenizer& tokenizer, io::ResultJournal& journal, RunCounters& counters,
          InWork* in_work = nullptr)
      : tokenizer_(tokenizer), journal_(journal), counters_(counters), in_work_(in_work) {}

  // A prompt that cannot run: one failed row.
  void fail(const PreparedPrompt& prompt, const std::string& reason, double now);
  // Sample `sample` of `prompt` is from now on known as `id`.
  void start(SequenceId id, const PreparedPrompt& prompt, std::int32_t sample);
  void planned(const BatchPlan& plan, double now);

  // Looks at a step's tokens before they are committed; returns the sequences that must end now, because of a
  // stop string or because their logits were not numbers.
  std::vector<SequenceId> observe(const StepResult& result, double now);
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
    bool broken = false;   // NaN logits
    std::size_t slot = 0;  // of in_work_
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
  InWork* in_work_;
  std::unordered_map<SequenceId, Active> active_;
};

}  // namespace nightshift::runtime
