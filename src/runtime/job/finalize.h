// SPDX-License-Identifier: Apache-2.0
// The last act of a job: journals become the result file.
#pragma once

#include "io/results.h"
#include "runtime/job/report.h"
#include "runtime/job/session.h"

namespace nightshift::runtime {

struct Finalized {
  io::ResultSummary result;
  double failed_share = 0.0;
  std::string summary;     // JSON, as in the file
  std::string provenance;  // JSON, as in the file
};

// What is in the journals of a session, complete or not.
struct Harvest {
  std::uint64_t rows = 0;            // of the input
  std::uint64_t committed_rows = 0;  // with all their samples
  bool complete() const { return rows == committed_rows; }
};
Harvest look_at_harvest(const Job& job);

// Summary and provenance as they stand now, of a running or stopped job.
std::string summarize(const Job& job);
std::string describe_provenance(const Job& job);

// Writes the result (temporary name, verified, renamed), reads it back, and removes the journal folder. Error when an
// answer is missing; the journal is then as it was.
Finalized finalize(const Job& job);

}  // namespace nightshift::runtime
