// SPDX-License-Identifier: Apache-2.0
// Finds repeated ids among any number of rows in bounded memory: 64-bit hashes are sorted a partition at a
// time, and ids whose hashes meet are compared themselves.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "io/prompts.h"

namespace nightshift::io {

using ReadIds = std::function<std::vector<RowId>(PromptRow first, std::uint64_t count)>;

// The first two rows found with equal ids, or none. Holds at most `max_hashes` hashes (8 bytes each) at a
// time and reads the ids rows / max_hashes times.
std::optional<std::pair<PromptRow, PromptRow>> find_repeated_id(std::uint64_t rows, const ReadIds& read,
                                                                std::uint64_t max_hashes = 1u << 24);

}  // namespace nightshift::io
