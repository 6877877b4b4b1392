// SPDX-License-Identifier: Apache-2.0
// Element conversion at load: once per weight, so precision is decided here and nowhere else.
#include <bit>
#include <cstring>

#include "core/check.h"
#include "model/packed_weights.h"

namespace nightshift::model {

namespace {

float from_f16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 0x1fu, mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact
    const float magnitude = static_cast<float>(mantissa) * 0x1.0p-24F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

template <class Stored, class Out, class Convert>
void convert_all(const void* data, std::span<Out> out, Convert&& one) {
  const auto* bytes = static_cast<const std::byte*>(data);
  for (std::size_t i = 0; i < out.size(); ++i) {
    Stored value;
    std::memcpy(&value, bytes + i * sizeof(Stored), sizeof(Stored));
    out[i] = Out(one(value));
  }
}

template <class Out>
void convert_to(DType from, const void* data, std::span<Out> out) {
  switch (from) {
    case DType::f32:
      return convert_all<float>(data, out, [](float x) { return x; });
    case DType::f16:
      return convert_all<std::uint16_t>(data, out, from_f16);
    case DType::bf16:
      return convert_all<std::uint16_t>(data, out, from_bf16);
    case DType::i32:
      break;
  }
  NS_CHECK(false, "weights of type {}", name_of(from));
}

}  // namespace

void convert(DType from, const void* data, std::span<bf16> out) {
  if (from == DType::bf16)
    std::memcpy(out.data(), data, out.size_bytes());
  else
    convert_to(from, data, out);
}

void convert(DType from, const void* data, std::span<float> out) {
  convert_to(from, data, out);
}

}  // namespace nightshift::model
