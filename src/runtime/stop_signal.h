// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <optional>

namespace nightshift::runtime {

// While it lives, SIGINT, SIGTERM and SIGUSR1 ask for a clean stop instead of ending the process. One per
// process.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  static bool asked();
  static const char* name();  // "SIGTERM", or "" when none came
};

// When a job must stop so that it leaves before its allocation ends. Counted from one clock's word on, so
// that hosts whose clocks differ stop together.
class StopTime {
 public:
  // `seconds_left`: of the allocation, from now on; none: it never ends, and so it is with an end that has
  // passed, for then it must have been put off. `margin`: seconds before the end, but no more than half of
  // what is left, so that every start of a chain of short allocations gets on.
  StopTime(std::optional<double> seconds_left, double margin);
  bool reached() const { return at_ && std::chrono::steady_clock::now() >= *at_; }

 private:
  std::optional<std::chrono::steady_clock::time_point> at_;
};

}  // namespace nightshift::runtime
