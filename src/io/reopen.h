// SPDX-License-Identifier: Apache-2.0
// A result back into a journal, so that some of its rows can be answered once more.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "io/journal.h"

namespace nightshift::io {

// Writes the rows of RESULT (results/1) that `keep` picks into a new journal in DIRECTORY, durably; returns
// how many it left out. `job` is Manifest::fingerprint(). Text is taken as it stands in the result, where
// what HDF5 cannot hold is U+FFFD. Memory is bounded. BadInput when a column is missing or does not fit the
// others.
std::uint64_t reopen_result(const std::string& result, const std::string& directory, std::uint64_t job,
                            const std::function<bool(const ResultRecord&)>& keep);

// How many rows `which` picks; looks at finish_reason and error only.
std::uint64_t count_results(const std::string& result, const std::function<bool(const ResultRecord&)>& which);

}  // namespace nightshift::io
