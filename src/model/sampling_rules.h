// SPDX-License-Identifier: Apache-2.0
// What sampling takes from a sequence and its parameters: one place for the host's sampler and for the GPU's,
// which must get the same numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "core/types.h"
#include "model/random.h"
#include "model/sampler.h"

namespace nightshift::model {

inline bool is_greedy(const SamplingParams& params) {
  return params.temperature < kGreedyTemperature;
}

inline float inverse_temperature(const SamplingParams& params) {
  return static_cast<float>(1.0 / params.temperature);
}

inline bool has_penalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 ||
         params.frequency_penalty != 0.0;
}

// Whether stop ids are masked: before min_tokens.
inline bool masks_stops(const PlannedSequence& sequence) {
  return sequence.output_position() < sequence.sampling->min_tokens;
}

inline double uniform_of(const PlannedSequence& sequence) {
  return uniform(sequence.random_key, static_cast<std::uint64_t>(sequence.output_position()));
}

// Notes in `counts` [>= size, zeros] how often each of the tokens first .. first + size - 1 occurs in the
// output that is known, plus one where it occurs at all, and in `touched` (emptied first) those that do, less
// `first`. The caller puts the zeros back.
inline void count_known(const PlannedSequence& sequence, TokenId first, std::size_t size,
                        std::span<std::int32_t> counts, std::vector<TokenId>& touched) {
  touched.clear();
  const auto length = static_cast<std::size_t>(sequence.computed + sequence.num_tokens);
  const auto known = sequence.tokens.first(std::min(length, sequence.tokens.size()));
  for (std::size_t i = 0; i < known.size(); ++i) {
    const TokenId id = known[i] - first;
    if (id < 0 || static_cast<std::size_t>(id) >= size) continue;
    auto& count = counts[static_cast<std::size_t>(id)];
    if (count == 0) {
      touched.push_back(id);
      count = 1;
    }
    count += i >= static_cast<std::size_t>(sequence.prompt_tokens) ? 1 : 0;
  }
}

// The logarithm of a row's sum of exponentials, from its maximum and the sum of exp(logit - maximum); and
// what it makes of a logit.
inline double log_total(float maximum, double sum) {
  return static_cast<double>(maximum) + std::log(sum);
}
inline float logprob_of(float logit, double total) {
  return static_cast<float>(static_cast<double>(logit) - total);
}

}  // namespace nightshift::model
