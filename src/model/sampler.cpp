// SPDX-License-Identifier: Apache-2.0
#include "model/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "core/check.h"
#include "kernels/exp.h"
#include "model/random.h"

namespace nightshift::model {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The largest value; nullopt when the row is unusable.
std::optional<float> usable_maximum(std::span<const float> logits) {
  constexpr std::size_t kLanes = 16;
  std::array<float, kLanes> best;
  best.fill(kNever);
  std::array<std::int32_t, kLanes> bad{};
  std::size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      best[lane] = x > best[lane] ? x : best[lane];
      bad[lane] |= !(x <= std::numeric_limits<float>::max());  // NaN or +infinity
    }
  for (; i < logits.size(); ++i) {
    best[0] = logits[i] > best[0] ? logits[i] : best[0];
    bad[0] |= !(logits[i] <= std::numeric_limits<float>::max());
  }
  const float maximum = *std::max_element(best.begin(), best.end());
  const bool unusable = std::any_of(bad.begin(), bad.end(), [](auto b) { return b != 0; });
  return unusable || maximum == kNever ? std::nullopt : std::optional(maximum);
}

TokenId first_of(std::span<const float> logits, float value) {
  return static_cast<TokenId>(std::find(logits.begin(), logits.end(), value) - logits.begin());
}

// weights[i] = exp((logits[i] - maximum) * inverse_temperature)
void exponentials(std::span<const float> logits, float maximum, float inverse_temperature,
                  std::span<float> weights) {
  for (std::size_t i = 0; i < logits.size(); ++i)
    weights[i] = kernels::fixed_exp((logits[i] - maximum) * inverse_temperature);
}

// Sum in eight interleaved chains, joined pairwise: a fixed order that vectorizes.
double sum(std::span<const float> values) {
  std::array<double, 8> lanes{};
  std::size_t i = 0;
  for (; i + 8 <= values.size(); i += 8)
    for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] += static_cast<double>(values[i + lane]);
  for (std::size_t lane = 0; i < values.size(); ++i, ++lane) lanes[lane] += static_cast<double>(values[i]);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

using Candidate = std::pair<float, TokenId>;

struct LessLikely {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.first < b.first || (a.first == b.first && a.second > b.second);
  }
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
        heap_.emplace_back(values_[i], static_cast<TokenId>(i));
    floor_ = low;
    std::make_heap(heap_.begin(), heap_.end(), LessLikely{});
  }

  std::span<const float> values_;
  float maximum_;
  float floor_;  // values at or above it have been handed out or stand in the heap
  std::size_t window_ = 0;
  std::vector<Candidate>& heap_;
};

// The first token, in ascending id, at which the running sum of `kept` weights exceeds u times their total.
TokenId draw(std::vector<Candidate>& kept, double u) {
  std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  double total = 0.0;
  for (const auto& [weight, id] : kept) total += static_cast<double>(weight);
  double running = 0.0;
  for (const auto& [weight, id] : kept) {
    running += static_cast<double>(weight);
    if (running > u * total) return id;
  }
  return kept.back().second;
}

// The same over all ids: finds the block first, so that the long way is one vectorized pass.
TokenId draw_from_all(std::span<const float> weights, double u) {
  constexpr std::size_t kBlock = 2048;
  std::vector<double> sums;
  double total = 0.0;
  for (std::size_t first = 0; first < weights.size(); first += kBlock) {
    sums.push_back(sum(weights.subspan(first, std::min(kBlock, weights.size() - first))));
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
void shorten(std::vector<Candidate>& kept, double target) {
  std::size_t count = 0;
  for (double taken = 0.0; count < kept.size() && (count == 0 || taken < target); ++count)
    taken += static_cast<double>(kept[count].first);
  kept.resize(count);
}

// Most likely tokens until top_k are taken or their weight reaches top_p of all (with top_k: of the k).
TokenId draw_truncated(std::span<const float> logits, std::span<const float> weights, float maximum,
                       const SamplingParams& params, double u, std::vector<Candidate>& heap) {
  Descending order(logits, maximum, heap);
  std::vector<Candidate> kept;  // weight and id
  double taken = 0.0;
  const auto take = [&] {
    const auto next = order.next();
    const float weight = next ? weights[static_cast<std::size_t>(next->second)] : 0.0F;
    if (weight <= 0.0F) return false;
    kept.emplace_back(weight, next->second);
    taken += static_cast<double>(weight);
    return true;
  };
  if (params.top_k > 0) {
    while (kept.size() < static_cast<std::size_t>(params.top_k) && take()) {
    }
    shorten(kept, params.top_p * taken);
  } else {
    const double enough = params.top_p * sum(weights);
    while ((kept.empty() || taken < enough) && take()) {
    }
  }
  return draw(kept, u);
}

void apply_penalties(std::span<float> logits, const PlannedSequence& sequence, Sampler::Scratch& scratch) {
  const SamplingParams& params = *sequence.sampling;
  const auto known = sequence.tokens.first(static_cast<std::size_t>(sequence.computed + sequence.num_tokens));
  scratch.counts.resize(std::max(scratch.counts.size(), logits.size()));
  // Counts of output tokens are shifted up by one, so that a prompt token is known by a count of at least
  // one.
  const auto note = [&](TokenId id, std::int32_t add) {
    if (id < 0 || static_cast<std::size_t>(id) >= logits.size()) return;
    auto& count = scratch.counts[static_cast<std::size_t>(id)];
    if (count == 0) {
      scratch.touched.push_back(id);
      count = 1;
    }
    count += add;
  };
  for (std::size_t i = 0; i < known.size(); ++i)
    note(known[i], i >= static_cast<std::size_t>(sequence.prompt_tokens));

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
  scratch.touched.clear();
}

bool has_penalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 ||
         params.frequency_penalty != 0.0;
}

bool masks_stops(const PlannedSequence& sequence) {
  return sequence.output_position() < sequence.sampling->min_tokens;
}

// log(sum(exp(logits)))
double log_sum_exp(std::span<const float> logits, float maximum, std::vector<float>& weights) {
  weights.resize(std::max(weights.size(), logits.size()));
  const std::span<float> all = std::span(weights).first(logits.size());
  exponentials(logits, maximum, 1.0F, all);
  return static_cast<double>(maximum) + std::log(sum(all));
}

void add_logprobs(std::span<const float> logits, float maximum, std::int64_t top, Sampler::Scratch& scratch,
                  SampledToken& out) {
  const double total = log_sum_exp(logits, maximum, scratch.weights);
  const auto logprob = [&](float logit) { return static_cast<float>(static_cast<double>(logit) - total); };
  out.logprob = logprob(logits[static_cast<std::size_t>(out.token)]);
  Descending order(logits, maximum, scratch.candidates);
  for (std::int64_t i = 0; i < top; ++i) {
    const auto next = order.next();
    if (!next) break;
    out.top.push_back({.token = next->second, .logprob = logprob(next->first)});
  }
}

// `logits` after masks and penalties.
TokenId choose(std::span<const float> logits, float maximum, const PlannedSequence& sequence,
               Sampler::Scratch& scratch) {
  const SamplingParams& params = *sequence.sampling;
  if (params.temperature < kGreedyTemperature) return first_of(logits, maximum);
  scratch.weights.resize(std::max(scratch.weights.size(), logits.size()));
  const std::span<float> weights = std::span(scratch.weights).first(logits.size());
  exponentials(logits, maximum, static_cast<float>(1.0 / params.temperature), weights);
  const auto min_p = static_cast<float>(params.min_p);
  if (min_p > 0.0F)
    for (float& weight : weights) weight = weight < min_p ? 0.0F : weight;
  const double u = uniform(sequence.random_key, static_cast<std::uint64_t>(sequence.output_position()));
  if (params.top_k <= 0 && params.top_p >= 1.0) return draw_from_all(weights, u);
  return draw_truncated(logits, weights, maximum, params, u, scratch.candidates);
}

}  // namespace

Sampler::Sampler(int vocab, std::vector<TokenId> stop_ids) : vocab_(vocab), stop_ids_(std::move(stop_ids)) {
  NS_CHECK(vocab > 0, "vocab {}", vocab);
}

void Sampler::mask_stops(const PlannedSequence& sequence, std::span<float> logits) const {
  for (const auto* ids : {&stop_ids_, &sequence.sampling->stop_token_ids})
    for (const TokenId id : *ids)
      if (id >= 0 && id < vocab_) logits[static_cast<std::size_t>(id)] = kNever;
}

SampledToken Sampler::sample(std::span<const float> row, const PlannedSequence& sequence,
                             Scratch& scratch) const {
  NS_CHECK(row.size() >= static_cast<std::size_t>(vocab_), "{} logits for {} tokens", row.size(), vocab_);
  std::span<const float> logits = row.first(static_cast<std::size_t>(vocab_));
  SampledToken out;
  out.id = sequence.id;
  const std::optional<float> raw_maximum = usable_maximum(logits);
  if (!raw_maximum) return out;

  std::optional<float> maximum = raw_maximum;
  if (masks_stops(sequence) || has_penalties(*sequence.sampling)) {
    scratch.logits.assign(logits.begin(), logits.end());
    const std::span<float> changed(scratch.logits);
    if (masks_stops(sequence)) mask_stops(sequence, changed);
    if (has_penalties(*sequence.sampling)) apply_penalties(changed, sequence, scratch);
    maximum = usable_maximum(changed);
    if (!maximum) return out;
    out.token = choose(changed, *maximum, sequence, scratch);
  } else {
    out.token = choose(logits, *maximum, sequence, scratch);
  }
  if (sequence.sampling->logprobs > 0)
    add_logprobs(logits, *raw_maximum, sequence.sampling->logprobs, scratch, out);
  return out;
}

}  // namespace nightshift::model
