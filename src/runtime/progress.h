// SPDX-License-Identifier: Apache-2.0
// What the job has done so far, from every rank to status.json. Publishing costs a put every half second.
#pragma once

#include <deque>
#include <string>

#include "parallel/parallel.h"
#include "runtime/job/session.h"

namespace nightshift::runtime {

class Progress {
 public:
  // Collective. `samples`: of the whole job, as far as known; `before`: of those, done by earlier starts.
  Progress(const parallel::Communicator& ranks, const Session& session, std::uint64_t samples,
           std::uint64_t before, int restarts);

  // Publishes this rank's counters and, on rank 0, rewrites status.json; does nothing when called again too
  // soon, unless forced. `now`: seconds since this start.
  void tick(const RunCounters& counters, std::size_t running, double now, bool force = false);
  void note(const std::string& state, const std::string& text, double now);  // rank 0: while nothing runs yet
  void end(bool complete, double now);  // rank 0: the last word of this start

 private:
  void write(double now);
  void save() const;
  void measure_rate(Status& status, double now);

  const parallel::Communicator& ranks_;
  const Session& session_;
  parallel::ProgressBoard board_;
  Status status_;
  std::uint64_t before_;
  double next_ = 0.0;
  struct Moment {
    double at;
    std::uint64_t tokens, samples;
  };
  std::deque<Moment> recent_;  // of the last seconds: the rate is theirs, not the whole run's
};

}  // namespace nightshift::runtime
