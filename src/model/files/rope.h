// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and the published ways to stretch it. A pure
// function turns the configuration into one table of frequencies; kernels see only that table.
#pragma once

#include <cstdint>
#include <vector>

namespace nightshift::model {

enum class RopeKind : std::uint8_t {
  standard,
  linear,   // position interpolation, Chen et al. 2023, arXiv:2306.15595
  dynamic,  // NTK-aware base change by context length
  yarn,     // Peng et al. 2023, arXiv:2309.00071
  llama3,   // frequency bands, Llama 3.1
};

struct RopeConfig {
  RopeKind kind = RopeKind::standard;
  double theta = 10000.0;
  double factor = 1.0;
  double original_positions = 0.0;  // context the model was first trained on
  double low_freq_factor = 1.0;     // llama3
  double high_freq_factor = 4.0;    // llama3
  double beta_fast = 32.0;          // yarn
  double beta_slow = 1.0;           // yarn
  double mscale = 0.0;              // yarn; 0: not given
  double mscale_all_dim = 0.0;      // yarn; 0: not given
  double attention_factor = 0.0;    // yarn; 0: derived from factor and mscale
  bool truncate = true;             // yarn: whole dimensions as bounds of the ramp

  bool operator==(const RopeConfig&) const = default;
};

struct RopeFrequencies {
  std::vector<float> inverse;  // [head_dim / 2]: angle of pair j at position p is p * inverse[j]
  float scale = 1.0F;          // on cosine and sine
};

// `max_context` matters to `dynamic` alone: its base follows the longest sequence the *job* allows, not the
// length reached so far. Otherwise keys cached early would have been rotated differently from keys cached
// late, and an answer would depend on chunking. Other kinds give the same table for every job.
RopeFrequencies rope_frequencies(const RopeConfig& rope, int head_dim, std::int64_t max_context);

}  // namespace nightshift::model
