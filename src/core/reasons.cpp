// SPDX-License-Identifier: Apache-2.0
#include "core/reasons.h"

#include <array>

namespace nightshift {
namespace {

constexpr std::array kReasons{
    FailureReason{"bad_checkpoint", "saved tokens do not fit the bounds of the answer", false},
    FailureReason{"bad_messages", "the chat messages are no JSON array of messages", false},
    FailureReason{"bad_params", "a parameter has a wrong name, kind or value", false},
    FailureReason{"bad_template", "the chat template refuses the messages", false},
    FailureReason{"bad_tokens", "a token id is outside the vocabulary", false},
    FailureReason{"crashed", "its ranks died again and again while they worked on it", true},
    FailureReason{"empty_prompt", "the prompt has no tokens", false},
    FailureReason{"invalid_utf8", "the text is not UTF-8", false},
    FailureReason{"nan_logits", "the model's output was not a number", true},
    FailureReason{"timeout", "it ran for longer than max_seconds", true},
    FailureReason{"too_long", "the prompt leaves no room for an answer in the context", false},
};

}  // namespace

std::span<const FailureReason> failure_reasons() {
  return kReasons;
}

std::string_view reason_of(std::string_view error) {
  return error.substr(0, error.find(':'));
}

bool is_retryable(std::string_view error) {
  for (const FailureReason& reason : kReasons) {
    if (reason.name == reason_of(error)) return reason.retryable;
  }
  return false;
}

}  // namespace nightshift
