// SPDX-License-Identifier: Apache-2.0
// What the job has done so far, from the leaders of all replicas to status.json. Publishing costs a put every
// half second.
#pragma once

#include <chrono>
#include <deque>
#include <string>

#include "parallel/parallel.h"
#include "runtime/job/session.h"

namespace nightshift::runtime {

class Progress {
 public:
  // Collective over `leaders`. `ranks`: of the whole job; `samples`: of the whole job, as far as known;
  // `before`: of those, done by earlier starts, `failed_before` of which have failed.
  Progress(const parallel::Communicator& leaders, int ranks, const Session& session, std::uint64_t samples,
           std::uint64_t before, std::uint64_t failed_before, int restarts);

  // Publishes this replica's counters and, on rank 0, rewrites status.json; does nothing when called again
  // too soon, unless forced.
  void tick(const RunCounters& counters, std::size_t running, bool force = false);
  void note(const std::string& state, const std::string& text);  // rank 0: while nothing runs yet
  void end(bool complete);                                       // rank 0: the last word of this start

 private:
  double now() const;  // seconds since this was made
  void write(double at);
  void save() const;
  void measure_rate(Status& status, double at);

  const parallel::Communicator& leaders_;
  const Session& session_;
  parallel::ProgressBoard board_;
  Status status_;
  std::uint64_t before_, failed_before_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  double next_ = 0.0;
  struct Moment {
    double at;
    std::uint64_t tokens, samples;
  };
  std::deque<Moment> recent_;  // of the last seconds: the rate is theirs, not the whole run's
};

}  // namespace nightshift::runtime
