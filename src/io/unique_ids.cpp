// SPDX-License-Identifier: Apache-2.0
#include "io/unique_ids.h"

#include <xxhash.h>

#include <algorithm>
#include <map>
#include <unordered_set>

namespace nightshift::io {
namespace {

constexpr std::uint64_t kRowsPerRead = 8192;

std::uint64_t hash_of(const RowId& id) {
  if (const auto* number = std::get_if<std::int64_t>(&id)) return XXH3_64bits(number, sizeof *number);
  const std::string& text = std::get<std::string>(id);
  return XXH3_64bits(text.data(), text.size());
}

void for_each_id(std::uint64_t rows, const ReadIds& read,
                 const std::function<void(PromptRow, const RowId&)>& visit) {
  for (PromptRow first = 0; first < rows; first += kRowsPerRead) {
    const std::vector<RowId> ids = read(first, std::min(kRowsPerRead, rows - first));
    for (std::size_t i = 0; i < ids.size(); ++i) visit(first + i, ids[i]);
  }
}

// Hashes of one partition that occur more than once.
std::unordered_set<std::uint64_t> repeated_hashes(std::uint64_t rows, const ReadIds& read, std::uint64_t part,
                                                  std::uint64_t parts) {
  std::vector<std::uint64_t> hashes;
  hashes.reserve(std::min(rows, rows / parts + rows / parts / 16 + 1024));
  for_each_id(rows, read, [&](PromptRow, const RowId& id) {
    const std::uint64_t hash = hash_of(id);
    if (parts == 1 || (hash >> 32) % parts == part) hashes.push_back(hash);
  });
  std::sort(hashes.begin(), hashes.end());
  std::unordered_set<std::uint64_t> repeated;
  for (std::size_t i = 1; i < hashes.size() && repeated.size() < kRowsPerRead; ++i) {
    if (hashes[i] == hashes[i - 1]) repeated.insert(hashes[i]);
  }
  return repeated;
}

}  // namespace

std::optional<std::pair<PromptRow, PromptRow>> find_repeated_id(std::uint64_t rows, const ReadIds& read,
                                                                std::uint64_t max_hashes) {
  const std::uint64_t parts = std::max<std::uint64_t>((rows + max_hashes - 1) / max_hashes, 1);
  for (std::uint64_t part = 0; part < parts; ++part) {
    const std::unordered_set<std::uint64_t> repeated = repeated_hashes(rows, read, part, parts);
    if (repeated.empty()) continue;
    std::map<RowId, PromptRow> seen;
    std::optional<std::pair<PromptRow, PromptRow>> found;
    for_each_id(rows, read, [&](PromptRow row, const RowId& id) {
      if (found || !repeated.contains(hash_of(id))) return;
      const auto [first, is_new] = seen.emplace(id, row);
      if (!is_new) found = {first->second, row};
    });
    if (found) return found;
  }
  return std::nullopt;
}

}  // namespace nightshift::io
