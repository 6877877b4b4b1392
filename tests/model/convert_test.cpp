// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "model/packed_weights.h"

namespace nightshift::model {
namespace {

template <class Stored>
std::vector<bf16> to_bf16(DType type, const std::vector<Stored>& values) {
  std::vector<bf16> out(values.size());
  convert(type, values.data(), std::span(out));
  return out;
}

TEST(Convert, F32RoundsToNearestEven) {
  const auto value = [](std::uint32_t bits) { return std::bit_cast<float>(bits); };
  const auto out =
      to_bf16<float>(DType::f32, {value(0x3f808000), value(0x3f818000), value(0x3f808001), value(0x3f807fff),
                                  value(0x7f7fffff), -0.0F, std::numeric_limits<float>::infinity()});
  EXPECT_EQ(out[0].bits, 0x3f80);  // tie to even
  EXPECT_EQ(out[1].bits, 0x3f82);  // tie to even, upwards
  EXPECT_EQ(out[2].bits, 0x3f81);
  EXPECT_EQ(out[3].bits, 0x3f80);
  EXPECT_EQ(out[4].bits, 0x7f80);  // overflows to infinity
  EXPECT_EQ(out[5].bits, 0x8000);
  EXPECT_EQ(out[6].bits, 0x7f80);
  const auto nan = to_bf16<float>(DType::f32, {std::numeric_limits<float>::quiet_NaN(), value(0x7f800001)});
  for (const bf16 x : nan) EXPECT_TRUE(std::isnan(static_cast<float>(x)));
}

TEST(Convert, EveryF16Value) {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  std::vector<float> out(all.size());
  convert(DType::f16, all.data(), std::span(out));
  for (std::size_t i = 0; i < all.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31), mantissa = static_cast<int>(i & 1023);
    const float sign = i & 0x8000 ? -1.0F : 1.0F;
    if (exponent == 31) {
      EXPECT_EQ(std::isinf(out[i]), mantissa == 0);
      EXPECT_EQ(std::isnan(out[i]), mantissa != 0);
      continue;
    }
    const double want =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    EXPECT_EQ(out[i], sign * static_cast<float>(want));
    EXPECT_EQ(std::signbit(out[i]), sign < 0);
  }
}

TEST(Convert, Bf16IsCopied) {
  EXPECT_EQ(to_bf16<std::uint16_t>(DType::bf16, {0x1234, 0xffff})[1].bits, 0xffff);
}

}  // namespace
}  // namespace nightshift::model
