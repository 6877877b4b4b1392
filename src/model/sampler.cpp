// SPDX-License-Identifier: Apache-2.0
#include "model/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "core/check.h"
#include "kernels/exp.h"
#include "model/sampling_rules.h"

namespace nightshift::model {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Extreme {
  float maximum = kNever;
  bool unusable = false;  // a NaN or +infinity among the values
};

Extreme extreme(std::span<const float> logits) {
  constexpr std::size_t kLanes = 16;
  std::array<float, kLanes> best;
  best.fill(kNever);
  std::array<std::int32_t, kLanes> bad{};
  std::size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      best[lane] = x > best[lane] ? x : best[lane];
      bad[lane] |= !(x <= std::numeric_limits<float>::max());
    }
  for (; i < logits.size(); ++i) {
    best[0] = logits[i] > best[0] ? logits[i] : best[0];
    bad[0] |= !(logits[i] <= std::numeric_limits<float>::max());
  }
  return {*std::max_element(best.begin(), best.end()),
          std::any_of(bad.begin(), bad.end(), [](auto b) { return b != 0; })};
}

// The largest value; nullopt when the row is unusable.
std::optional<float> usable_maximum(std::span<const float> logits) {
  const Extreme found = extreme(logits);
  return found.unusable || found.maximum == kNever ? std::nullopt : std::optional(found.maximum);
}

TokenId first_of(std::span<const float> logits, float value) {
  return static_cast<TokenId>(std::find(logits.begin(), logits.end(), value) - logits.begin());
}

// exp((logit - maximum) / temperature), or 0 below min_p.
struct Weight {
  explicit Weight(const SamplingParams& params, float maximum_)
      : maximum(maximum_),
        inverse_temperature(model::inverse_temperature(params)),
        min_p(static_cast<float>(params.min_p)) {}
  float operator()(float logit) const {
    const float weight = kernels::fixed_exp((logit - maximum) * inverse_temperature);
    return weight < min_p ? 0.0F : weight;
  }
  float maximum, inverse_temperature, min_p;
};

// Sum in eight interleaved chains, joined pairwise: a fixed order that vectorizes.
double sum_of_block(std::span<const float> values) {
  std::array<double, 8> lanes{};
  std::size_t i = 0;
  for (; i + 8 <= values.size(); i += 8)
    for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] += static_cast<double>(values[i + lane]);
  for (std::size_t lane = 0; i < values.size(); ++i, ++lane) lanes[lane] += static_cast<double>(values[i]);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

// A row is added up in blocks of this many, one after the other: GPUs add up all blocks at once.
constexpr std::size_t kBlock = 2048;

double sum(std::span<const float> values) {
  double total = 0.0;
  for (std::size_t first = 0; first < values.size(); first += kBlock)
    total += sum_of_block(values.subspan(first, std::min(kBlock, values.size() - first)));
  return total;
}

// For heaps, whose top is the last in order.
struct LessLikely {
  bool operator()(const Candidate& a, const Candidate& b) const { return more_likely(b, a); }
};

// Hands out values in descending order, the lower id first on ties, without sorting them all: a heap of those
// within a window below the maximum, widened when it runs out. Logits of language models fall off so steeply
// that the first window nearly always suffices.
class Descending {
 public:
  Descending(std::span<const float> values, float maximum, std::vector<Candidate>& heap)
      : values_(values), maximum_(maximum), floor_(std::numeric_limits<float>::infinity()), heap_(heap) {
    heap_.clear();
  }

  std::optional<Candidate> next() {
    while (heap_.empty() && window_ < kWindows.size()) widen();
    if (heap_.empty()) return std::nullopt;
    std::pop_heap(heap_.begin(), heap_.end(), LessLikely{});
    const Candidate top = heap_.back();
    heap_.pop_back();
    return top;
  }

 private:
  static constexpr std::array kWindows{4.0F, 8.0F, 16.0F, 32.0F, std::numeric_limits<float>::infinity()};

  void widen() {
    const float low = maximum_ - kWindows[window_++];
    for (std::size_t i = 0; i < values_.size(); ++i)
      if (values_[i] >= low && values_[i] < floor_ && values_[i] > kNever)
        heap_.push_back({values_[i], static_cast<TokenId>(i)});
    floor_ = low;
    std::make_heap(heap_.begin(), heap_.end(), LessLikely{});
  }

  std::span<const float> values_;
  float maximum_;
  float floor_;  // values at or above it have been handed out or stand in the heap
  std::size_t window_ = 0;
  std::vector<Candidate>& heap_;
};

struct Kept {
  float weight;
  TokenId id;
};

// The first token, in ascending id, at which the running sum of `kept` weights exceeds u times their total.
TokenId draw(std::vector<Kept>& kept, double u) {
  std::sort(kept.begin(), kept.end(), [](const Kept& a, const Kept& b) { return a.id < b.id; });
  double total = 0.0;
  for (const Kept& k : kept) total += static_cast<double>(k.weight);
  double running = 0.0;
  for (const Kept& k : kept) {
    running += static_cast<double>(k.weight);
    if (running > u * total) return k.id;
  }
  return kept.back().id;
}

// The same over all ids: finds the block first, so that the long way is one vectorized pass.
TokenId draw_from_all(std::span<const float> weights, double u) {
  std::vector<double> sums;
  double total = 0.0;
  for (std::size_t first = 0; first < weights.size(); first += kBlock) {
    sums.push_back(sum_of_block(weights.subspan(first, std::min(kBlock, weights.size() - first))));
    total += sums.back();
  }
  std::size_t chosen = 0;
  double running = 0.0, before = 0.0;
  for (std::size_t block = 0; block < sums.size() && running <= u * total; ++block) {
    if (sums[block] > 0.0) {
      chosen = block;
      before = running;
    }
    running += sums[block];
  }
  TokenId last = -1;  // stands when u is so near 1 that rounding keeps the sum below it
  running = before;
  for (std::size_t i = chosen * kBlock; i < std::min((chosen + 1) * kBlock, weights.size()); ++i) {
    if (weights[i] <= 0.0F) continue;
    last = static_cast<TokenId>(i);
    running += static_cast<double>(weights[i]);
    if (running > u * total) break;
  }
  return last;
}

// Keeps the shortest beginning of `kept` that reaches `target`, at least one.
void shorten(std::vector<Kept>& kept, double target) {
  std::size_t count = 0;
  for (double taken = 0.0; count < kept.size() && (count == 0 || taken < target); ++count)
    taken += static_cast<double>(kept[count].weight);
  kept.resize(count);
}

// The most likely tokens while `more(taken, weight so far)` holds; next() hands them out in order.
template <class Next, class More>
std::vector<Kept> take_likely(const Weight& weight, Next&& next, More&& more, double& taken) {
  std::vector<Kept> kept;
  while (more(kept.size(), taken)) {
    const std::optional<Candidate> candidate = next();
    const float w = candidate ? weight(candidate->logit) : 0.0F;
    if (w <= 0.0F) break;
    kept.push_back({w, candidate->id});
    taken += static_cast<double>(w);
  }
  return kept;
}

// Among the top_k most likely, those that reach top_p of their weight.
template <class Next>
TokenId draw_top_k(Next&& next, const Weight& weight, const SamplingParams& params, double u) {
  const auto most = static_cast<std::size_t>(params.top_k);
  double taken = 0.0;
  auto kept = take_likely(
      weight, next, [&](std::size_t count, double) { return count < most; }, taken);
  shorten(kept, params.top_p * taken);
  return draw(kept, u);
}

// The most likely that reach `enough` weight, at least one.
template <class Next>
TokenId draw_top_p(Next&& next, const Weight& weight, double enough, double u) {
  double taken = 0.0;
  auto kept = take_likely(
      weight, next, [&](std::size_t count, double w) { return count == 0 || w < enough; }, taken);
  return draw(kept, u);
}

// logits: those of tokens first .. .
void apply_penalties(std::span<float> logits, TokenId first, const PlannedSequence& sequence,
                     Sampler::Scratch& scratch) {
  const SamplingParams& params = *sequence.sampling;
  scratch.counts.resize(std::max(scratch.counts.size(), logits.size()));
  count_known(sequence, first, logits.size(), scratch.counts, scratch.touched);
  for (const TokenId id : scratch.touched) {
    float& logit = logits[static_cast<std::size_t>(id)];
    auto& count = scratch.counts[static_cast<std::size_t>(id)];
    const double repeated =
        logit > 0.0F ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    const double times = count - 1;
    logit = static_cast<float>(repeated - times * params.frequency_penalty -
                               (times > 0 ? params.presence_penalty : 0.0));
    count = 0;
  }
}

void weigh(std::span<const float> logits, const Weight& weight, std::vector<float>& weights) {
  weights.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) weights[i] = weight(logits[i]);
}

void add_logprobs(std::span<const float> logits, float maximum, std::int64_t top, Sampler::Scratch& scratch,
                  SampledToken& out) {
  SamplingParams plain;
  plain.temperature = 1.0;
  weigh(logits, Weight(plain, maximum), scratch.weights);
  const double total = log_total(maximum, sum(scratch.weights));
  out.logprob = logprob_of(logits[static_cast<std::size_t>(out.token)], total);
  Descending order(logits, maximum, scratch.candidates);
  for (std::int64_t i = 0; i < top; ++i) {
    const auto next = order.next();
    if (!next) break;
    out.top.push_back({.token = next->id, .logprob = logprob_of(next->logit, total)});
  }
}

// `logits` after masks and penalties.
TokenId choose_from_row(std::span<const float> logits, float maximum, const PlannedSequence& sequence,
                        Sampler::Scratch& scratch) {
  const SamplingParams& params = *sequence.sampling;
  if (is_greedy(params)) return first_of(logits, maximum);
  const Weight weight(params, maximum);
  const double u = uniform_of(sequence);
  Descending order(logits, maximum, scratch.candidates);
  if (params.top_k > 0) return draw_top_k([&] { return order.next(); }, weight, params, u);
  weigh(logits, weight, scratch.weights);
  if (params.top_p >= 1.0) return draw_from_all(scratch.weights, u);
  return draw_top_p([&] { return order.next(); }, weight, params.top_p * sum(scratch.weights), u);
}

}  // namespace

Sampler::Sampler(int vocab, std::vector<TokenId> stop_ids) : vocab_(vocab), stop_ids_(std::move(stop_ids)) {
  NS_CHECK(vocab > 0, "vocab {}", vocab);
}

// `logits` of tokens first .. after masks and penalties; the same where there are none.
std::span<const float> Sampler::changed(std::span<const float> logits, TokenId first,
                                        const PlannedSequence& sequence, Scratch& scratch) const {
  const bool penalties = has_penalties(*sequence.sampling);
  if (!masks_stops(sequence) && !penalties) return logits;
  scratch.logits.assign(logits.begin(), logits.end());
  if (masks_stops(sequence)) {
    for (const auto* ids : {&stop_ids_, &sequence.sampling->stop_token_ids})
      for (const TokenId id : *ids)
        if (id >= first && id - first < static_cast<TokenId>(logits.size()))
          scratch.logits[static_cast<std::size_t>(id - first)] = kNever;
  }
  if (penalties) apply_penalties(scratch.logits, first, sequence, scratch);
  return scratch.logits;
}

SampledToken Sampler::sample(std::span<const float> row, const PlannedSequence& sequence,
                             Scratch& scratch) const {
  NS_CHECK(row.size() >= static_cast<std::size_t>(vocab_), "{} logits for {} tokens", row.size(), vocab_);
  const std::span<const float> raw = row.first(static_cast<std::size_t>(vocab_));
  SampledToken out;
  out.id = sequence.id;
  const std::optional<float> raw_maximum = usable_maximum(raw);
  if (!raw_maximum) return out;
  const std::span<const float> logits = changed(raw, 0, sequence, scratch);
  const std::optional<float> maximum = logits.data() == raw.data() ? raw_maximum : usable_maximum(logits);
  if (!maximum) return out;
  out.token = choose_from_row(logits, *maximum, sequence, scratch);
  if (sequence.sampling->logprobs > 0)
    add_logprobs(raw, *raw_maximum, sequence.sampling->logprobs, scratch, out);
  return out;
}

int Sampler::candidates_needed(const PlannedSequence& sequence) {
  const SamplingParams& params = *sequence.sampling;
  if (params.logprobs > 0) return 0;
  if (is_greedy(params)) return 1;
  return params.top_k > 0 && params.top_k <= kMostCandidates ? static_cast<int>(params.top_k) : 0;
}

bool Sampler::candidates(std::span<const float> part, TokenId first, const PlannedSequence& sequence,
                         Scratch& scratch, std::span<Candidate> out) const {
  std::fill(out.begin(), out.end(), Candidate{kNever, -1});
  const auto real = static_cast<std::size_t>(std::max(0, vocab_ - first));
  const std::span<const float> raw = part.first(std::min(part.size(), real));
  const std::span<const float> logits = changed(raw, first, sequence, scratch);
  const Extreme found = extreme(logits);
  if (found.unusable || (logits.data() != raw.data() && extreme(raw).unusable)) return false;
  if (found.maximum == kNever) return true;
  if (out.size() == 1) {
    out[0] = {found.maximum, first + first_of(logits, found.maximum)};
    return true;
  }
  Descending order(logits, found.maximum, scratch.candidates);
  for (Candidate& c : out) {
    const auto next = order.next();
    if (!next) break;
    c = {next->logit, first + next->id};
  }
  return true;
}

SampledToken Sampler::choose(std::span<Candidate> all, const PlannedSequence& sequence) const {
  SampledToken out;
  out.id = sequence.id;
  std::sort(all.begin(), all.end(), more_likely);
  if (all.empty() || all[0].logit == kNever) return out;
  if (is_greedy(*sequence.sampling)) {
    out.token = all[0].id;
    return out;
  }
  const Candidate* at = all.data();
  const Candidate* const end = at + all.size();
  const auto next = [&]() -> std::optional<Candidate> {
    return at == end || at->logit == kNever ? std::nullopt : std::optional(*at++);
  };
  out.token =
      draw_top_k(next, Weight(*sequence.sampling, all[0].logit), *sequence.sampling, uniform_of(sequence));
  return out;
}

}  // namespace nightshift::model
