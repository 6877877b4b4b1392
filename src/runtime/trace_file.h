// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "core/trace.h"
#include "parallel/parallel.h"

namespace nightshift::runtime {

// A log whose zero is the same moment on all ranks of a host, and nearly so on all hosts. The more ranks, the
// less each may keep: what a viewer opens, and what rank 0 holds while writing, stays some hundred MB.
// Collective.
TraceLog begin_trace(const parallel::Communicator& world);

// All ranks' events as one Chrome trace, written by rank 0: a process per replica, a row per rank.
// Collective.
void write_trace(const TraceLog& log, const parallel::DeviceMesh& mesh, const std::filesystem::path& file);

}  // namespace nightshift::runtime
