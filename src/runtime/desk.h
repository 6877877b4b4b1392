// SPDX-License-Identifier: Apache-2.0
// What only the leader of a replica has: prompts, tokenizer, work queue, journal, progress. Its followers
// never see a text.
#pragma once

#include <functional>

#include "runtime/committed.h"
#include "runtime/intake.h"
#include "runtime/job/heartbeat.h"
#include "runtime/progress.h"
#include "runtime/replica.h"
#include "runtime/start.h"
#include "tokenizer/tokenizer.h"

namespace nightshift::runtime {

class Desk {
 public:
  // Collective over `leaders` (which, like `session` and `start`, must outlive the desk), and so is its end:
  // not before all of them are done with the queue. `ranks`: of the whole job.
  Desk(const Session& session, const Start& start, const parallel::Communicator& leaders, int ranks);

  int tokenizer_size() const { return tokenizer_.vocab_size(); }
  Progress& progress() { return progress_; }

  // Takes prompts and journals answers until there are none left (true) or `going` says stop (false).
  // `journal_number`: of this rank in the job. The clock is the replica's. `heartbeat`: of this rank.
  bool serve(Replica& replica, const ModelShape& shape, int journal_number, Heartbeat& heartbeat,
             std::function<bool()> going);

 private:
  const Session& session_;
  const Start& start_;
  io::PromptReader prompts_;
  Committed committed_;  // and what is out of this start's scope
  Progress progress_;
  tokenizer::Tokenizer tokenizer_;
  tokenizer::ChatTemplate chat_;
  WorkPlan plan_;
  parallel::WorkQueue queue_;
};

}  // namespace nightshift::runtime
