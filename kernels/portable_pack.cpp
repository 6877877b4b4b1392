// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "kernels/portable.h"

namespace nightshift::kernels::portable {
namespace {

constexpr std::int64_t kPairs = 16;  // a cache line of every row, 4 KiB of the panel: both stay in L1

void pack_row(const bf16* row, std::int64_t pairs, bf16* to) {
  for (std::int64_t p = 0; p < pairs; ++p)
    std::memcpy(static_cast<void*>(to + p * 2 * kPanel), row + 2 * p, 2 * sizeof(bf16));
}

}  // namespace

void pack(const PackBlock& b) {
  for (std::int64_t pair = 0; pair < b.pairs; pair += kPairs) {
    const std::int64_t pairs = std::min(kPairs, b.pairs - pair);
    bf16* to = b.panel + pair * 2 * kPanel + 2 * b.first;
    for (int r = 0; r < b.count; ++r) pack_row(b.rows + r * b.stride + 2 * pair, pairs, to + 2 * r);
  }
}

}  // namespace nightshift::kernels::portable
