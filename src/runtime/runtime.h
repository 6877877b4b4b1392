// SPDX-License-Identifier: Apache-2.0
// The runtime room: what a rank does between the start of its environments and its end.
//
//   rank.cpp            opens everything, in order, and closes it
//   desk.cpp            what only a leader has: prompts, tokenizer, queue, journal
//   engine.cpp          THE loop of a leader: commit, admit, give orders, emit, plan, execute
//   follower.cpp        and of its followers: obey, plan, execute
//   replica.cpp         what both do alike; orders.cpp: what travels between them
//   intake.cpp          claims units of prompts, reads and tokenizes them on a thread, ahead of need
//   model_executor.cpp  scheduler::Executor over the model; asks the shift policy
//   calibrate.cpp       times both layouts at start
//   emitter.cpp         sampled tokens -> text, stop strings, journal rows, latencies
//   progress.cpp        the leaders' counters -> the board -> status.json
//   record.cpp          all ranks' counters -> the run record; trace_file.cpp: their events -> one trace
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
