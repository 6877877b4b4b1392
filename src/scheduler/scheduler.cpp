// SPDX-License-Identifier: Apache-2.0
// A sequence's life around the steps: queued, given its tokens, ended, forgotten. Making a step is in
// plan.cpp.
#include "scheduler/scheduler.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "scheduler/repetition.h"
#include "scheduler/sequence.h"

namespace nightshift::scheduler {

namespace {

const Options& checked(const Options& options) {
  const auto positive = [](int value, const char* name) {
    if (value < 1) throw BadInput(fmt::format("schedule: {} is {}", name, value), "it must be at least 1");
  };
  const auto not_negative = [](int value, const char* name) {
    if (value < 0) throw BadInput(fmt::format("schedule: {} is {}", name, value), "it must be at least 0");
  };
  positive(options.token_budget, "token_budget");
  positive(options.max_sequences, "max_sequences");
  positive(options.kv_blocks, "kv_blocks");
  positive(options.max_context, "max_context");
  positive(options.tile, "tile");
  positive(options.pipeline_depth, "pipeline_depth");
  not_negative(options.prefill_group, "prefill_group");
  not_negative(options.prefill_patience, "prefill_patience");
  if (!(options.watermark >= 0.0 && options.watermark < 1.0))
    throw BadInput(fmt::format("schedule: watermark is {}", options.watermark),
                   "it is a share of the KV blocks, at least 0 and below 1");
  return options;
}

}  // namespace

Scheduler::Scheduler(const Options& options)
    : options_(checked(options)), kv_(options.kv_blocks, options.prefix_cache) {
  const std::int64_t pool_tokens = static_cast<std::int64_t>(options_.kv_blocks) * kKvBlockTokens;
  context_limit_ = static_cast<int>(std::min<std::int64_t>(options_.max_context, pool_tokens));
  watermark_blocks_ = static_cast<int>(options_.watermark * options_.kv_blocks);
  steps_.resize(static_cast<std::size_t>(options_.pipeline_depth));
  running_.reserve(static_cast<std::size_t>(options_.max_sequences));
}

Scheduler::~Scheduler() = default;

std::optional<std::string> Scheduler::refusal(const Request& request) const {
  const auto prompt = request.prompt.size();
  const auto limit = static_cast<std::size_t>(context_limit_);
  const char* whose = context_limit_ < options_.max_context ? " (the KV cache)" : "";
  if (prompt == 0) return "empty_prompt: no tokens";
  if (prompt > limit) return fmt::format("too_long: {} > {} tokens{}", prompt, limit, whose);
  if (prompt == limit)
    return fmt::format("too_long: {} tokens leave no room for an answer in {}{}", prompt, limit, whose);
  if (request.params.max_tokens < 1)
    return fmt::format("bad_params: max_tokens is {}, it must be at least 1", request.params.max_tokens);
  const std::size_t room = std::min(limit - prompt, static_cast<std::size_t>(request.params.max_tokens));
  if (request.output.size() >= room)
    return fmt::format("bad_checkpoint: {} tokens generated already, at most {} wanted",
                       request.output.size(), room);
  return std::nullopt;
}

std::optional<std::string> Scheduler::add(Request&& request) {
  NS_CHECK(!closed_, "sequence {} is added after close()", request.id);
  if (auto reason = refusal(request)) return reason;
  NS_CHECK(!by_id_.contains(request.id), "sequence {} is already being scheduled", request.id);
  Sequence& sequence = new_sequence();
  sequence.id = request.id;
  sequence.random_key = request.random_key;
  sequence.sampling = std::move(request.params);
  sequence.prompt_tokens = static_cast<int>(request.prompt.size());
  sequence.final_tokens = static_cast<int>(std::min<std::int64_t>(
      context_limit_, sequence.prompt_tokens + std::min<std::int64_t>(sequence.sampling.max_tokens,
                                                                      std::numeric_limits<int>::max())));
  sequence.tokens = std::move(request.prompt);
  sequence.tokens.insert(sequence.tokens.end(), request.output.begin(), request.output.end());
  if (!request.output.empty()) sequence.reached = sequence.known() - 1;  // all but the last token's, once
  by_id_.emplace(sequence.id, &sequence);
  waiting_.push_back(&sequence);
  return std::nullopt;
}

Sequence& Scheduler::new_sequence() {
  if (unused_.empty()) {
    storage_.push_back(std::make_unique<Sequence>());
    unused_.push_back(storage_.back().get());
  }
  Sequence& sequence = *unused_.back();
  unused_.pop_back();
  return sequence;
}

void Scheduler::recycle(Sequence& sequence) {
  kv_.release(sequence.blocks);
  sequence = Sequence{};
  unused_.push_back(&sequence);
}

std::vector<Finished> Scheduler::commit(const StepResult& result, std::span<const SequenceId> stop) {
  NS_CHECK(steps_in_flight_ > 0, "a result for step {}, but no step is in flight", result.step);
  Step& step = step_at(0);
  NS_CHECK(result.step == step.plan.step, "result of step {}, expected step {}", result.step, step.plan.step);
  ask_stop(stop);

  std::vector<Finished> finished;
  std::size_t next = 0;
  for (std::size_t i = 0; i < step.sequences.size(); ++i) {
    Sequence& sequence = *step.sequences[i];
    --sequence.in_flight;
    if (!step.plan.sequences[i].samples) continue;
    NS_CHECK(next < result.tokens.size() && result.tokens[next].id == sequence.id,
             "step {}: no token for sequence {} at place {} of {}", result.step, sequence.id, next,
             result.tokens.size());
    const FinishReason reason = append(sequence, result.tokens[next++].token);
    if (reason != FinishReason::none) finished.push_back(end(sequence, reason));
  }
  NS_CHECK(next == result.tokens.size(), "step {}: {} tokens, expected {}", result.step, result.tokens.size(),
           next);
  NS_CHECK(stops_asked_ == 0, "step {}: asked to stop {} sequences that got no token", result.step,
           stops_asked_);

  if (!finished.empty()) std::erase_if(running_, [](const Sequence* sequence) { return sequence->ended; });
  for (Sequence* sequence : step.sequences)
    if (sequence->ended && sequence->in_flight == 0) recycle(*sequence);
  step.retired.clear();
  oldest_step_ = (oldest_step_ + 1) % steps_.size();
  --steps_in_flight_;
  return finished;
}

void Scheduler::ask_stop(std::span<const SequenceId> stop) {
  for (const SequenceId id : stop) {
    const auto found = by_id_.find(id);
    NS_CHECK(found != by_id_.end(), "asked to stop sequence {}, which is not being scheduled", id);
    if (found->second->stop_asked) continue;
    found->second->stop_asked = true;
    ++stops_asked_;
  }
}

// Takes the token that a step sampled; the reason if the sequence ends with it.
FinishReason Scheduler::append(Sequence& sequence, TokenId token) {
  --sequence.pending;
  if (sequence.ended) {  // its end came to light while this step was in flight
    ++counters_.dropped_tokens;
    return FinishReason::none;
  }
  NS_DCHECK(sequence.tokens.size() < sequence.tokens.capacity(), "spans in flight would dangle");
  sequence.tokens.push_back(token);
  ++counters_.output_tokens;
  if (sequence.stop_asked) {
    --stops_asked_;
    return FinishReason::stop;
  }
  if (is_end_token(sequence, token)) return FinishReason::stop;
  if (runs_in_circles(sequence)) return FinishReason::repetition;
  return sequence.known() >= sequence.final_tokens ? FinishReason::length : FinishReason::none;
}

// An end token counts once min_tokens others came before it; the sampler keeps it from being drawn earlier.
bool Scheduler::is_end_token(const Sequence& sequence, TokenId token) const {
  if (sequence.output_tokens() <= sequence.sampling.min_tokens) return false;
  const auto holds = [token](const std::vector<TokenId>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  return holds(sequence.sampling.stop_token_ids) ||
         (!sequence.sampling.ignore_eos && holds(options_.eos_ids));
}

// A function of the answer's tokens alone, so every rank, layout and restart sees it at the same token.
bool Scheduler::runs_in_circles(const Sequence& sequence) {
  const SamplingParams& params = sequence.sampling;
  if (params.repetition_guard == 0 || sequence.output_tokens() <= params.min_tokens) return false;
  const auto output =
      std::span<const TokenId>(sequence.tokens).subspan(static_cast<std::size_t>(sequence.prompt_tokens));
  return ends_in_copies(output, static_cast<std::size_t>(params.repetition_ngram),
                        static_cast<std::size_t>(params.repetition_guard));
}

// Hands back the answer. The caller takes the sequence off the running list; its memory stays while steps in
// flight point into it.
Finished Scheduler::end(Sequence& sequence, FinishReason reason) {
  Finished finished{.id = sequence.id,
                    .reason = reason,
                    .output = {sequence.tokens.begin() + sequence.prompt_tokens, sequence.tokens.end()},
                    .stop_token = -1,
                    .prompt_tokens = sequence.prompt_tokens,
                    .cached_tokens = sequence.cached_tokens,
                    .preemptions = sequence.preemptions,
                    .recomputed = sequence.recomputed,
                    .first_step = sequence.first_step,
                    .first_token = sequence.first_token};
  if (reason == FinishReason::stop && is_end_token(sequence, sequence.tokens.back()))
    finished.stop_token = sequence.tokens.back();
  if (!sequence.resident) waiting_.erase(std::find(waiting_.begin(), waiting_.end(), &sequence));
  by_id_.erase(sequence.id);
  sequence.ended = true;
  ++counters_.finished;
  return finished;
}

std::optional<Finished> Scheduler::cancel(SequenceId id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return std::nullopt;
  Sequence& sequence = *found->second;
  Finished finished = end(sequence, FinishReason::cancelled);
  if (sequence.resident) running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  if (sequence.in_flight == 0) recycle(sequence);
  return finished;
}

std::vector<Progress> Scheduler::progress() const {
  std::vector<Progress> all;
  const auto note = [&all](const Sequence* sequence) {
    if (sequence->output_tokens() == 0) return;
    const std::span<const TokenId> tokens(sequence->tokens);
    all.push_back({sequence->id, tokens.subspan(static_cast<std::size_t>(sequence->prompt_tokens))});
  };
  std::for_each(running_.begin(), running_.end(), note);
  std::for_each(waiting_.begin(), waiting_.end(), note);
  return all;
}

// As many as there are free places, and a quarter of a batch beyond.
bool Scheduler::wants_more() const {
  return !closed_ && waiting() < options_.max_sequences - running() + std::max(1, options_.max_sequences / 4);
}

Counters Scheduler::counters() const {
  Counters counters = counters_;
  counters.evictions = kv_.evictions();
  counters.kv_blocks_high_water = kv_.held_high_water();
  return counters;
}

void Scheduler::audit() const {
  std::vector<int> holders(static_cast<std::size_t>(kv_.total()), 0);
  for (const auto& sequence : storage_)
    for (const BlockId block : sequence->blocks) ++holders[static_cast<std::size_t>(block)];
  kv_.audit(holders);
  NS_CHECK(!idle() || kv_.held() == 0, "idle, but {} KV blocks are held", kv_.held());
  NS_CHECK(by_id_.size() == running_.size() + waiting_.size(),
           "{} sequences known, {} running and {} waiting", by_id_.size(), running_.size(), waiting_.size());
}

}  // namespace nightshift::scheduler
