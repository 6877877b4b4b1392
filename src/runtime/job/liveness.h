// SPDX-License-Identifier: Apache-2.0
// A job as a bystander sees it: running, stopped, dead or finished. Takes no lock and writes nothing.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "runtime/job/session.h"

namespace nightshift::runtime {

struct Liveness {
  std::string state;                 // running | stopped | dead | finished | none
  std::string holder;                // "process 4711 on node3", while running
  std::optional<Status> status;      // as rank 0 wrote it last
  std::uint64_t committed_rows = 0;  // in the journals; of a finished job: rows of the result
  std::uint64_t rows = 0;            // of the input; 0 when it cannot be told
  std::uint64_t failed = 0;          // answers, of those
  int restarts = 0;                  // starts after the first
};

// `output` names the result file, whether it exists yet or not.
Liveness look_at_job(const std::filesystem::path& output);

std::string to_text(const Liveness& liveness, const std::filesystem::path& output);
std::string to_json(const Liveness& liveness);

// One line for a running job: "1,234 of 10,000 (12.3 %), 4,567 tokens/s, 2 min 03 s left".
std::string progress_line(const Status& status);

}  // namespace nightshift::runtime
