// SPDX-License-Identifier: Apache-2.0
// What the run record says beside the counters of the loop.
#pragma once

#include "model/model.h"
#include "parallel/parallel.h"
#include "runtime/job/session.h"

namespace nightshift::runtime {

// What a rank can say at its end: peaks, memory, and its traffic since it was `before`. Collective over the
// mesh's world, while all ranks still hold their memory.
void count_at_end(const model::Model& model, const parallel::DeviceMesh& mesh,
                  const parallel::TrafficSums& before, RunCounters& counters);

// Gathers counters, hosts and signals at rank 0, which writes `run` with them. Collective over `world`.
// `stopped_by`: the signal that this rank heeds, "" for none.
void write_record(const Session& session, const parallel::Communicator& world, const RunCounters& counters,
                  const std::string& stopped_by, RunRecord run);

}  // namespace nightshift::runtime
