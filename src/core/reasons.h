// SPDX-License-Identifier: Apache-2.0
// Why rows fail. A failed row's `error` is "reason: words"; docs/operations.md has this table with a remedy
// for each.
#pragma once

#include <span>
#include <string_view>

namespace nightshift {

struct FailureReason {
  std::string_view name;
  std::string_view meaning;
  bool retryable;  // another try may give an answer without a change to prompt, job or model
};

std::span<const FailureReason> failure_reasons();  // by name

std::string_view reason_of(std::string_view error);  // "timeout: 12 tokens in 3 s" -> "timeout"
bool is_retryable(std::string_view error);           // false for reasons that are not known

}  // namespace nightshift
