// SPDX-License-Identifier: Apache-2.0
// exp as a fixed list of IEEE operations (no fused ones, no libm), so that every compiler, CPU and vector
// width agrees on the bits. Cody and Waite's reduction x = n ln 2 + r, then a polynomial for exp(r) on |r| <=
// ln 2 / 2 (Cephes' single-precision coefficients). Relative error below 2e-7. The AVX-512 files spell the
// same list in vectors.
#pragma once

#include <bit>
#include <cstdint>

namespace nightshift::kernels {

inline constexpr float kExpLowest = -87.0F;  // below: 0 (exp would be near the smallest normal number)
inline constexpr float kExpHighest = 88.0F;  // above: clamped
inline constexpr float kLog2e = 1.44269504088896341F;
inline constexpr float kLn2High = 0.693359375F;
inline constexpr float kLn2Low = -2.12194440e-4F;
inline constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding and subtracting it rounds to nearest even
inline constexpr float kExpPolynomial[6] = {1.9875691500e-4F, 1.3981999507e-3F, 8.3334519073e-3F,
                                            4.1665795894e-2F, 1.6666665459e-1F, 5.0000001201e-1F};

static inline float fixed_exp(float x) {
  if (x < kExpLowest) return 0.0F;
  x = x > kExpHighest ? kExpHighest : x;
  const float n = (x * kLog2e + kRound) - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = kExpPolynomial[0];
  for (int i = 1; i < 6; ++i) p = p * r + kExpPolynomial[i];
  p = (p * (r * r) + r) + 1.0F;
  if (!(n == n)) return p;  // NaN in, NaN out: there is no exponent to add
  return std::bit_cast<float>(std::bit_cast<std::int32_t>(p) + (static_cast<std::int32_t>(n) << 23));
}

}  // namespace nightshift::kernels
