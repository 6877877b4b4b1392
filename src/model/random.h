// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox 4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw 2011, "Parallel random
// numbers: as easy as 1, 2, 3"). A number is a pure function of (key, position): no state to carry, save, or
// get out of step.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace nightshift::model {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

constexpr PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = 0xD2511F53ull * counter[0];
    const std::uint64_t product1 = 0xCD9E8D57ull * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

// In [0, 1), 53 bits, for output position `position` of the sequence with this key.
double uniform(std::uint64_t random_key, std::uint64_t position);

// The key of one answer. A prompt that brings its own seed is keyed by that seed and the sample index alone,
// so the same prompt with the same seed gets the same answer in any row of any job; otherwise job seed,
// prompt (a key of its id, the row number where the input has no ids) and sample decide.
std::uint64_t random_key(std::uint64_t job_seed, std::optional<std::uint64_t> prompt_seed,
                         std::uint64_t prompt, std::uint64_t sample);

}  // namespace nightshift::model
