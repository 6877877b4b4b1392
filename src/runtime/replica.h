// SPDX-License-Identifier: Apache-2.0
// What the ranks of a replica do alike: each runs its own copy of the scheduler on the same inputs, so that
// plans are made everywhere and travel nowhere. The leader (rank 0) alone knows the job; its orders are the
// one message of a step.
#pragma once

#include <functional>

#include "parallel/parallel.h"
#include "runtime/job/session.h"
#include "runtime/orders.h"
#include "scheduler/scheduler.h"

namespace nightshift::runtime {

class Replica {
 public:
  // `ranks`: of this replica. `clock` tells seconds since the job's start. All references must outlive the
  // replica; `trace` may be null.
  Replica(const parallel::Communicator& ranks, scheduler::Scheduler& scheduler, scheduler::Executor& executor,
          RunCounters& counters, std::function<double()> clock, TraceLog* trace = nullptr)
      : ranks_(ranks),
        scheduler_(scheduler),
        executor_(executor),
        counters_(counters),
        clock_(std::move(clock)),
        trace_(trace) {}

  bool leads() const { return ranks_.rank() == 0; }
  bool has_followers() const { return leads() && ranks_.size() > 1; }
  scheduler::Scheduler& scheduler() const { return scheduler_; }
  RunCounters& counters() const { return counters_; }
  TraceLog* trace() const { return trace_; }
  double now() const { return clock_(); }

  void send(const Orders& orders) const;  // leader; free where nobody follows
  Orders receive() const;                 // followers: waits for the leader

  const BatchPlan& plan();                    // see Scheduler::plan
  StepResult execute(const BatchPlan& plan);  // to the end of the step

 private:
  const parallel::Communicator& ranks_;
  scheduler::Scheduler& scheduler_;
  scheduler::Executor& executor_;
  RunCounters& counters_;
  std::function<double()> clock_;
  TraceLog* trace_;
};

}  // namespace nightshift::runtime
