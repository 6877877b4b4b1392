// SPDX-License-Identifier: Apache-2.0
// The ranks of a job, started as often as it takes: again after a failure or a hang, and at last without the
// prompts that kill them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/preflight.h"
#include "cli/supervisor.h"
#include "cli/terminal.h"
#include "io/journal.h"
#include "io/lock.h"
#include "runtime/job/finalize.h"
#include "runtime/job/heartbeat.h"
#include "runtime/job/restarts.h"
#include "runtime/job/session.h"
#include "runtime/job/suspects.h"

namespace nightshift::cli {

class Starts {
 public:
  // All references must outlive it. The caller holds the signals (SignalsHeld).
  // `lock`: the job's.
  Starts(const Preflight& checked, const runtime::Session& session, Terminal& terminal,
         const io::JobLock& lock);

  // Until every prompt is answered, somebody asks for a stop, or another start is of no use. Says what it
  // does on the terminal, in ranks.log and in status.json. Ends the ranks and throws Error when the lock is
  // lost: what they would write is another launcher's.
  RanksEnd run();

 private:
  RanksEnd run_once(const runtime::Scope& scope);
  bool look_after();  // a tick; false: the ranks hang
  bool stopped(const RanksEnd& end) const;
  bool recover(RanksEnd& end, const runtime::Scope& scope, bool progress);
  bool keep_to_living_nodes();
  runtime::LaunchCommand for_our_ranks(runtime::LaunchCommand command) const;
  bool search(const runtime::Scope& scope);
  void set_apart(const io::JournalIndex& index, PromptRow row);
  void acquit(const io::JournalIndex& index);
  runtime::Scope next_scope() const;
  void say(const std::string& line) const;

  const Preflight& checked_;
  const runtime::Session& session_;
  Terminal& terminal_;
  const io::JobLock& lock_;
  runtime::LaunchCommand command_;
  std::uint64_t fingerprint_;
  runtime::Harvest harvest_;
  runtime::Suspects suspects_;
  runtime::RestartBudget budget_;
  bool worked_ = false;  // ranks have come as far as computing
  std::optional<runtime::HangWatch> watch_;
  double next_look_ = 0.0;
  std::optional<runtime::HangWatch::Silent> silent_;  // why the ranks were ended
};

}  // namespace nightshift::cli
