// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/restarts.h"

#include <algorithm>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

constexpr double kLongestPause = 60.0;
constexpr int kCannotRun = 126, kNotFound = 127;  // a shell's words for a program that does not start

}  // namespace

bool worth_restarting(int code, bool worked) {
  if (code == static_cast<int>(Exit::bad_input) || code == static_cast<int>(Exit::stopped_resumable))
    return false;
  if (code == kCannotRun || code == kNotFound) return false;
  return worked || code != static_cast<int>(Exit::failed);
}

std::optional<double> RestartBudget::failed(bool progress) {
  if (progress) in_a_row_ = 0;
  if (in_a_row_ >= most_) return std::nullopt;
  double pause = 1.0;
  for (int i = 0; i < in_a_row_ && pause < kLongestPause; ++i) pause *= 2.0;
  ++in_a_row_;
  return std::min(pause, kLongestPause);
}

}  // namespace nightshift::runtime
