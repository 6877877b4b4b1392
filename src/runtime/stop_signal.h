// SPDX-License-Identifier: Apache-2.0
#pragma once

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

}  // namespace nightshift::runtime
