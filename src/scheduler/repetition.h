// SPDX-License-Identifier: Apache-2.0
// Answers that go round in circles: greedy decoding falls into loops that only max_tokens would end (Holtzman
// et al. 2020, "The Curious Case of Neural Text Degeneration").
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "core/types.h"

namespace nightshift::scheduler {

// True when `output` ends in `copies` copies, one right behind the other, of a piece of at most `longest`
// tokens. Almost every comparison fails at its first token, so that a call costs about `longest` of them.
inline bool ends_in_copies(std::span<const TokenId> output, std::size_t longest, std::size_t copies) {
  for (std::size_t piece = 1; piece <= longest && piece * copies <= output.size(); ++piece) {
    const auto tail = output.last(piece * copies);
    // Equal to itself one piece later: periodic.
    if (std::equal(tail.rbegin(), tail.rend() - static_cast<std::ptrdiff_t>(piece),
                   tail.rbegin() + static_cast<std::ptrdiff_t>(piece)))
      return true;
  }
  return false;
}

}  // namespace nightshift::scheduler
