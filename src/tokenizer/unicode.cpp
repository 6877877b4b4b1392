// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unicode.h"

#include <vector>

namespace nightshift::tokenizer {

std::uint16_t properties(std::uint32_t code_point) {
  // Flat: 2.2 MB of which a text touches a few pages. The kernel gives the rest no memory until it is read.
  static const std::vector<std::uint16_t> table = [] {
    std::vector<std::uint16_t> all(kCodePointEnd);
    for_each_run([&](std::uint32_t first, std::uint32_t end, std::uint16_t value) {
      for (std::uint32_t c = first; c < end; ++c) all[c] = value;
    });
    return all;
  }();
  return table[code_point];
}

}  // namespace nightshift::tokenizer
