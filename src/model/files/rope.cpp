// SPDX-License-Identifier: Apache-2.0
#include "model/files/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/check.h"

namespace nightshift::model {

namespace {

constexpr double kTwoPi = 2.0 * std::numbers::pi;

std::vector<double> base_frequencies(double theta, int head_dim) {
  std::vector<double> inverse(static_cast<std::size_t>(head_dim) / 2);
  for (std::size_t j = 0; j < inverse.size(); ++j)
    inverse[j] = std::pow(theta, -2.0 * static_cast<double>(j) / head_dim);
  return inverse;
}

double dynamic_theta(const RopeConfig& rope, int head_dim, double context) {
  const double length = std::max(context, rope.original_positions);
  const double stretch = rope.factor * length / rope.original_positions - (rope.factor - 1.0);
  return rope.theta * std::pow(stretch, head_dim / (head_dim - 2.0));
}

// Long wavelengths are interpolated, short ones kept, those between blended.
void stretch_llama3(const RopeConfig& rope, std::vector<double>& inverse) {
  for (double& frequency : inverse) {
    const double turns = rope.original_positions * frequency / kTwoPi;  // within the original context
    const double keep =
        std::clamp((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0);
    frequency = (1.0 - keep) * frequency / rope.factor + keep * frequency;
  }
}

// Dimension whose wavelength fits `turns` times into the original context (YaRN, equation 14).
double yarn_dimension(const RopeConfig& rope, int head_dim, double turns) {
  return head_dim * std::log(rope.original_positions / (turns * kTwoPi)) / (2.0 * std::log(rope.theta));
}

void stretch_yarn(const RopeConfig& rope, int head_dim, std::vector<double>& inverse) {
  double low = yarn_dimension(rope, head_dim, rope.beta_fast);
  double high = yarn_dimension(rope, head_dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;  // the published code's guard against a division by zero
  for (std::size_t j = 0; j < inverse.size(); ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    inverse[j] = ramp * inverse[j] / rope.factor + (1.0 - ramp) * inverse[j];
  }
}

double yarn_scale(const RopeConfig& rope) {
  if (rope.attention_factor > 0.0) return rope.attention_factor;
  const auto scale = [&](double m) {
    return rope.factor <= 1.0 ? 1.0 : 0.1 * m * std::log(rope.factor) + 1.0;
  };
  const bool both = rope.mscale > 0.0 && rope.mscale_all_dim > 0.0;
  return both ? scale(rope.mscale) / scale(rope.mscale_all_dim) : scale(1.0);
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeConfig& rope, int head_dim, std::int64_t max_context) {
  NS_CHECK(head_dim >= 2 && head_dim % 2 == 0, "head_dim {} must be even", head_dim);
  NS_CHECK(rope.kind != RopeKind::dynamic || head_dim > 2, "dynamic RoPE needs head_dim above 2");
  const bool dynamic = rope.kind == RopeKind::dynamic;
  const double theta = dynamic ? dynamic_theta(rope, head_dim, static_cast<double>(max_context)) : rope.theta;
  std::vector<double> inverse = base_frequencies(theta, head_dim);
  if (rope.kind == RopeKind::linear)
    for (double& frequency : inverse) frequency /= rope.factor;
  if (rope.kind == RopeKind::llama3) stretch_llama3(rope, inverse);
  if (rope.kind == RopeKind::yarn) stretch_yarn(rope, head_dim, inverse);

  RopeFrequencies out;
  out.inverse.assign(inverse.begin(), inverse.end());
  out.scale = rope.kind == RopeKind::yarn ? static_cast<float>(yarn_scale(rope)) : 1.0F;
  return out;
}

}  // namespace nightshift::model
