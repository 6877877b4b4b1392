// SPDX-License-Identifier: Apache-2.0
#include "runtime/emitter.h"

#include <algorithm>

#include "core/check.h"

namespace nightshift::runtime {

void Emitter::fail(const PreparedPrompt& prompt, const std::string& reason, double now) {
  io::ResultRecord row;
  row.row = prompt.row;
  row.finish_reason = FinishReason::failed;
  row.error = reason;
  row.prompt_tokens = static_cast<std::int32_t>(prompt.tokens.size());
  row.started_s = row.first_token_s = row.finished_s = now;
  journal_.append(row);
  ++counters_.prompts_failed;
}

void Emitter::start(SequenceId id, const PreparedPrompt& prompt, std::int32_t sample) {
  Active active;
  active.row = prompt.row;
  active.sample = sample;
  active.samples = static_cast<std::int32_t>(prompt.params.n);
  active.prompt_tokens = static_cast<std::int32_t>(prompt.tokens.size());
  active.min_tokens = prompt.params.min_tokens;
  active.logprobs = prompt.params.logprobs;
  active.max_seconds = prompt.params.max_seconds;
  timed_ += active.max_seconds > 0 ? 1 : 0;
  if (!prompt.params.stop.empty()) {
    active.stop = std::make_unique<StopSearch>(StopSearch{
        tokenizer::StreamDecoder(tokenizer_, true), tokenizer::StopMatcher(prompt.params.stop), {}});
  }
  if (const io::ProgressRecord* begun = prompt.begun_of(sample)) take_up(active, *begun);
  if (in_work_ != nullptr) active.slot = in_work_->add(prompt.row);
  active_.emplace(id, std::move(active));
}

void Emitter::take_up(Active& active, const io::ProgressRecord& begun) {
  for (const TokenId token : begun.tokens) {
    ++active.tokens;
    if (active.stop) stops(active, token);
  }
  active.taken_up = active.journalled = active.tokens;
  active.started_s = begun.started_s;
  active.first_token_s = begun.first_token_s;
  active.chosen_logprobs = begun.logprobs;
  active.top_logprobs = begun.top;
  ++counters_.taken_up_answers;
  counters_.taken_up_tokens += begun.tokens.size();
}

void Emitter::planned(const BatchPlan& plan, double now) {
  for (const PlannedSequence& s : plan.sequences) {
    // A decode has long started, except as the continuation of an earlier start's answer: that has a time of
    // its own since when this start works on it, which matters where the time is bounded.
    if (s.output_position() > 0 && timed_ == 0) continue;
    Active& active = active_.at(s.id);
    if (active.since_s < 0) active.since_s = now;
    if (active.started_s < 0) active.started_s = now;
  }
}

void Emitter::clock(Active& active, double now) {
  // The gap to a token of an earlier start is the pause between the two, which says nothing of this one.
  const bool has_gap = active.tokens > active.taken_up;
  if (active.tokens++ == 0) {
    active.first_token_s = now;
    counters_.time_to_first_token.add(now);
    counters_.prompt_tokens += static_cast<std::uint64_t>(active.prompt_tokens);
  } else if (has_gap) {
    counters_.inter_token.add(now - active.last_token_s);
  }
  active.last_token_s = now;
  ++counters_.output_tokens;
}

void Emitter::keep_logprobs(Active& active, const SampledToken& token) {
  active.chosen_logprobs.push_back(token.logprob);
  const auto k = static_cast<std::size_t>(active.logprobs);
  const std::size_t have = std::min(k, token.top.size());
  active.top_logprobs.insert(active.top_logprobs.end(), token.top.begin(),
                             token.top.begin() + static_cast<std::ptrdiff_t>(have));
  active.top_logprobs.resize(active.top_logprobs.size() + k - have);
}

bool Emitter::stops(Active& active, TokenId token) const {
  StopSearch& search = *active.stop;
  const std::string piece = search.decoder.push(token);
  if (active.tokens < active.min_tokens) {
    search.text += piece;  // too early to stop: whatever stands here belongs to the answer
    return false;
  }
  search.text += search.matcher.push(piece);
  return search.matcher.stopped();
}

std::vector<SequenceId> Emitter::observe(const StepResult& result, double now) {
  std::vector<SequenceId> stop;
  for (const SampledToken& token : result.tokens) {
    const auto it = active_.find(token.id);
    if (it == active_.end()) continue;  // ended while this step was in flight
    Active& active = it->second;
    clock(active, now);
    if (active.logprobs > 0) keep_logprobs(active, token);
    active.broken = token.token < 0;
    if (active.broken || (active.stop && stops(active, token.token))) stop.push_back(token.id);
  }
  return stop;
}

std::vector<SequenceId> Emitter::overdue(double now) const {
  std::vector<SequenceId> late;
  if (timed_ == 0) return late;
  for (const auto& [id, active] : active_) {
    const bool timed = active.max_seconds > 0 && active.since_s >= 0;
    if (timed && now - active.since_s >= active.max_seconds) late.push_back(id);
  }
  std::sort(late.begin(), late.end());  // the map's order is arbitrary
  return late;
}

std::string Emitter::text_of(Active& active, const scheduler::Finished& finished) const {
  if (active.stop && active.stop->matcher.stopped()) return std::move(active.stop->text);
  // The token that ended the answer is no part of its text, even where it is an ordinary word.
  const bool ended_by_word = finished.stop_token >= 0 && !tokenizer_.is_special(finished.stop_token);
  const std::span<const TokenId> tokens(finished.output);
  if (ended_by_word) return tokenizer_.decode(tokens.first(tokens.size() - 1), true);
  if (!active.stop) return tokenizer_.decode(tokens, true);
  StopSearch& search = *active.stop;
  search.text += search.matcher.push(search.decoder.finish());
  if (!search.matcher.stopped()) search.text += search.matcher.finish();
  return std::move(search.text);
}

io::ResultRecord Emitter::record(Active& active, scheduler::Finished&& finished) const {
  io::ResultRecord row;
  row.row = active.row;
  row.sample = active.sample;
  row.samples = active.samples;
  row.finish_reason = finished.reason;
  row.prompt_tokens = finished.prompt_tokens;
  row.cached_tokens = finished.cached_tokens;
  row.started_s = active.started_s;
  row.first_token_s = active.first_token_s;
  row.finished_s = active.last_token_s;
  if (active.broken) {
    row.finish_reason = FinishReason::failed;
    row.error = fmt::format("nan_logits: at token {}", active.tokens);
    return row;
  }
  if (active.timed_out) {
    row.finish_reason = FinishReason::failed;
    row.error = fmt::format("timeout: {} tokens in {:g} s", active.tokens, active.max_seconds);
  }
  row.text = text_of(active, finished);
  row.tokens = std::move(finished.output);
  row.top_k = static_cast<std::int32_t>(active.logprobs);
  row.logprobs = std::move(active.chosen_logprobs);
  row.top = std::move(active.top_logprobs);
  return row;
}

void Emitter::checkpoint(const std::vector<scheduler::Progress>& progress) {
  for (const scheduler::Progress& sequence : progress) {
    Active& active = active_.at(sequence.id);
    const auto first = static_cast<std::size_t>(active.journalled), end = sequence.output.size();
    if (end == first) continue;
    const auto part = [&](const auto& values, std::size_t width) {
      const auto at = [&](std::size_t token) {
        return values.begin() + static_cast<std::ptrdiff_t>(token * width);
      };
      return std::vector(at(first), at(end));
    };
    const std::size_t top_k = static_cast<std::size_t>(active.logprobs);
    io::ProgressRecord piece;
    piece.row = active.row;
    piece.sample = active.sample;
    piece.samples = active.samples;
    piece.first = active.journalled;
    piece.tokens = part(sequence.output, 1);
    if (top_k > 0) piece.logprobs = part(active.chosen_logprobs, 1);
    piece.top_k = static_cast<std::int32_t>(top_k);
    piece.top = part(active.top_logprobs, top_k);
    piece.started_s = active.started_s;
    piece.first_token_s = active.first_token_s;
    journal_.append(piece);
    active.journalled = static_cast<std::int32_t>(end);
    counters_.checkpoint_tokens += end - first;
  }
}

void Emitter::finish(std::vector<scheduler::Finished>&& finished, double now) {
  for (scheduler::Finished& done : finished) {
    const auto it = active_.find(done.id);
    NS_CHECK(it != active_.end(), "sequence {} ended and was never started", done.id);
    Active& active = it->second;
    counters_.cached_tokens += static_cast<std::uint64_t>(done.cached_tokens);
    counters_.end_to_end.add(now);
    if (active.tokens > 1 && active.taken_up == 0) {
      counters_.time_per_output_token.add((active.last_token_s - active.first_token_s) / (active.tokens - 1));
    }
    ++(active.broken || active.timed_out ? counters_.prompts_failed : counters_.prompts_done);
    timed_ -= active.max_seconds > 0 ? 1 : 0;
    journal_.append(record(active, std::move(done)));
    if (in_work_ != nullptr) in_work_->remove(active.slot);
    active_.erase(it);
  }
}

}  // namespace nightshift::runtime
