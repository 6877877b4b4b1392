// SPDX-License-Identifier: Apache-2.0
// The runtime room: what a rank does between the start of its environments and its end.
//
//   rank.cpp            opens everything, in order, and closes it
//   engine.cpp          THE loop: admit, plan, execute, commit, emit, tick
//   intake.cpp          claims units of prompts, reads and tokenizes them on a thread, ahead of need
//   model_executor.cpp  scheduler::Executor over the model
//   emitter.cpp         sampled tokens -> text, stop strings, journal rows, latencies
//   progress.cpp        this rank's counters -> the board -> status.json
//   stop_signal.cpp     SIGINT, SIGTERM, SIGUSR1 -> a flag
//   job/                what the front end shares with the ranks
#pragma once

#include "parallel/parallel.h"
#include "runtime/job/session.h"

namespace nightshift::runtime {

// Runs this rank's part of the job whose session the front end has prepared. Returns when all work is done or
// a stop was asked for; rank 0 has then written the run record. Collective over `world`. `threads`: compute
// threads in use.
void run_rank(const Session& session, const parallel::Communicator& world, int threads);

}  // namespace nightshift::runtime
