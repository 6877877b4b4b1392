// SPDX-License-Identifier: Apache-2.0
// A second pass over rows that failed for a reason that another try may not meet (core/reasons.h).
#pragma once

#include <cstdint>
#include <string>

#include "core/config.h"

namespace nightshift::runtime {

// While this file stands in a journal folder, the folder is being made from a finished result and counts as
// not there.
inline constexpr char kReopening[] = "reopening";

// Such rows of the finished result at the job's output.
std::uint64_t count_retryable(const Job& job);

// The kernel set of the finished result's answers; "" when it does not say.
std::string kernels_of_result(const Job& job);

// Makes the journal folder anew from the finished result, without the rows to be tried again; returns how
// many they are. The result stays until the job is finalized. The caller holds the job's lock.
std::uint64_t reopen(const Job& job);

// Opens such rows in a journal that is there; returns how many. The caller holds the job's lock.
std::uint64_t supersede_retryable(const Job& job);

}  // namespace nightshift::runtime
