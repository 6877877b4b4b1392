// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "core/config.h"
#include "parallel/parallel.h"
#include "runtime/job/session.h"
#include "runtime/job/suspects.h"

namespace nightshift::runtime {

// What rank 0 finds in the session and tells the others, so that a thousand ranks do not open the same files.
struct Start {
  Job job;
  int number = 1;             // of this start
  std::int64_t job_unix = 0;  // the job's first start, seconds since 1970
  std::uint64_t fingerprint = 0;
  std::optional<double> seconds_left;  // of the allocation, by rank 0's clock; none: no end is known
  Scope scope = {};                    // the rows to work on
};
Start share_start(const Session& session, const parallel::Communicator& world);  // collective

}  // namespace nightshift::runtime
