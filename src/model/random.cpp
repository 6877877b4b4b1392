// SPDX-License-Identifier: Apache-2.0
#include "model/random.h"

namespace nightshift::model {

namespace {

constexpr std::uint32_t low(std::uint64_t x) {
  return static_cast<std::uint32_t>(x);
}
constexpr std::uint32_t high(std::uint64_t x) {
  return static_cast<std::uint32_t>(x >> 32);
}
constexpr std::uint64_t join(std::uint32_t lo, std::uint32_t hi) {
  return static_cast<std::uint64_t>(hi) << 32 | lo;
}

// Words three of the counter tell apart what a number is for.
constexpr std::uint32_t kForTokens = 0, kForKeys = 1, kForPromptSeeds = 2;

}  // namespace

double uniform(std::uint64_t random_key, std::uint64_t position) {
  const PhiloxCounter words =
      philox4x32({low(position), high(position), 0, kForTokens}, {low(random_key), high(random_key)});
  return static_cast<double>(join(words[0], words[1]) >> 11) * 0x1.0p-53;
}

std::uint64_t random_key(std::uint64_t job_seed, std::optional<std::uint64_t> prompt_seed,
                         std::uint64_t prompt, std::uint64_t sample) {
  const std::uint64_t seed = prompt_seed.value_or(job_seed);
  const std::uint64_t key = prompt_seed ? 0 : prompt;
  const std::uint32_t purpose = prompt_seed ? kForPromptSeeds : kForKeys;
  const PhiloxCounter words =
      philox4x32({low(key), high(key), low(sample), purpose}, {low(seed), high(seed)});
  return join(words[0], words[1]);
}

}  // namespace nightshift::model
