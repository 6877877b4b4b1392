// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/restarts.h"

#include <algorithm>
#include <array>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

constexpr double kLongestPause = 60.0;
constexpr int kMostNarrowings =
    60;  // two or three deadly prompts, one after the other, among thousands in work
constexpr int kCannotRun = 126, kNotFound = 127;  // a shell's words for a program that does not start

}  // namespace

bool worth_restarting(int code, bool worked) {
  constexpr std::array kFinal{static_cast<int>(Exit::bad_input), static_cast<int>(Exit::not_stored),
                              static_cast<int>(Exit::stopped_resumable), kCannotRun, kNotFound};
  if (std::find(kFinal.begin(), kFinal.end(), code) != kFinal.end()) return false;
  return worked || code != static_cast<int>(Exit::failed);
}

std::optional<double> RestartBudget::failed(bool progress, bool narrower) {
  if (progress) narrowings_ = 0;
  narrower = narrower && ++narrowings_ <= kMostNarrowings;
  if (progress || narrower) in_a_row_ = 0;
  if (in_a_row_ >= most_) return std::nullopt;
  double pause = 1.0;
  for (int i = 0; i < in_a_row_ && pause < kLongestPause; ++i) pause *= 2.0;
  ++in_a_row_;
  return std::min(pause, kLongestPause);
}

}  // namespace nightshift::runtime
