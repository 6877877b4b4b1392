// SPDX-License-Identifier: Apache-2.0
// The last act of a job: journals become the result file.
#pragma once

#include "io/results.h"
#include "runtime/job/report.h"
#include "runtime/job/session.h"

namespace nightshift::runtime {

// How much of the input the journals of a session answer.
struct Harvest {
  std::uint64_t rows = 0;            // of the input
  std::uint64_t committed_rows = 0;  // with all their samples
  bool complete() const { return rows == committed_rows; }
};
Harvest look_at_harvest(const Job& job);

struct Report {
  std::string summary;     // JSON, the root attributes of the result
  std::string provenance;  // JSON
};
Report report_of_journals(const Job& job);  // of a running or stopped job, as far as it has come

struct Finalized {
  io::ResultSummary result;
  double failed_share = 0.0;
  Report report;
};

// Removes what runs that were killed while they finalized have left beside the output. The caller holds the
// job's lock.
void remove_leftovers(const Job& job);

// Writes the result (temporary name, verified, renamed), reads it back, and removes the journal folder. The
// caller holds the job's lock. Error when an answer is missing; journals and output are then as they were.
Finalized finalize(const Job& job);

// Writes what the journals beside OUTPUT hold by now as a result file TO; prompts without an answer become
// "cancelled" rows. Takes no lock, so it may run at any time beside a running job. BadInput when there are no
// journals.
io::ResultSummary export_committed(const std::filesystem::path& output, const std::filesystem::path& to);

}  // namespace nightshift::runtime
