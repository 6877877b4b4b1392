// SPDX-License-Identifier: Apache-2.0
// kernels/exp.h's list of operations, one by one, in a form that device compilers may not contract.
#pragma once

#include "kernels/cuda/lane.cuh"

namespace nightshift::kernels::cuda {

NS_DEVICE float fixed_exp(float x) {
  if (x < -87.0F) return 0.0F;
  x = x > 88.0F ? 88.0F : x;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding and subtracting it rounds to nearest even
  const float n = difference(sum(product(x, 1.44269504088896341F), kRound), kRound);
  const float r = difference(difference(x, product(n, 0.693359375F)), product(n, -2.12194440e-4F));
  float p = 1.9875691500e-4F;
  p = sum(product(p, r), 1.3981999507e-3F);
  p = sum(product(p, r), 8.3334519073e-3F);
  p = sum(product(p, r), 4.1665795894e-2F);
  p = sum(product(p, r), 1.6666665459e-1F);
  p = sum(product(p, r), 5.0000001201e-1F);
  p = sum(sum(product(p, product(r, r)), r), 1.0F);
  if (!(n == n)) return p;  // NaN in, NaN out: there is no exponent to add
  return float_of(bits_of(p) + (static_cast<std::uint32_t>(static_cast<std::int32_t>(n)) << 23));
}

}  // namespace nightshift::kernels::cuda
