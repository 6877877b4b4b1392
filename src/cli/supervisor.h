// SPDX-License-Identifier: Apache-2.0
// Starts the ranks, passes on what they say, and sees to it that none of them outlives this process.
#pragma once

#include <csignal>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "cli/terminal.h"
#include "runtime/job/geometry.h"

namespace nightshift::cli {

// While it lives, the signals that ask for a stop wait to be read instead of ending the process. Threads
// started meanwhile inherit that.
class SignalsHeld {
 public:
  enum class AtEnd { deliver, drop };  // what becomes of a signal that nobody has read
  explicit SignalsHeld(AtEnd at_end = AtEnd::deliver);
  ~SignalsHeld();
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

  static sigset_t signals();  // SIGINT, SIGTERM, SIGUSR1, SIGHUP

 private:
  AtEnd at_end_;
  sigset_t before_;
};

struct RanksEnd {
  int code = 0;             // exit code of the launcher; 128 + signal when a signal ended it
  bool stop_asked = false;  // a signal came
  bool given_up = false;    // ended because `tick` said so, or because it did not end behind a killed rank
  std::vector<std::string> launcher;  // last lines that are not from a rank
};

// Runs the command to its end. The first stop signal becomes SIGUSR1 for the launcher, which hands it to the
// ranks: they finish their step, save and leave. The second becomes SIGTERM, the third SIGKILL. `tick` is
// called a few times a second; when it returns false, the ranks get SIGTERM, and SIGKILL where that does not
// help. Hold the signals (SignalsHeld) around it.
RanksEnd run_ranks(const runtime::LaunchCommand& command, const std::filesystem::path& log,
                   Terminal& terminal, const std::function<bool()>& tick);

// Sleeps; false when a signal asks for a stop meanwhile. Only under SignalsHeld.
bool pause_unless_stopped(double seconds);

}  // namespace nightshift::cli
