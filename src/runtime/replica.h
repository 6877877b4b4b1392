// SPDX-License-Identifier: Apache-2.0
// What the ranks of a replica do alike: each runs its own copy of the scheduler on the same inputs, so that
// plans are made everywhere and travel nowhere. The leader (rank 0) alone knows the job; its orders are the
// one message of a step.
#pragma once

#include <deque>
#include <functional>
#include <optional>

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

  // Plans the next step and submits it, unless it is empty: then nothing can run before another event. Calls
  // `before` in between.
  const BatchPlan& advance(const std::function<void(const BatchPlan&)>& before = {});
  // The result of the oldest step in flight, where it is due: as many are in flight as the executor holds, or
  // no other can be planned without it. So step n + 1 is planned while step n runs, and every rank of the
  // replica finds the same steps due.
  std::optional<StepResult> collect_due();
  StepResult collect();  // of the oldest one, due or not
  int in_flight() const { return scheduler_.in_flight(); }

 private:
  const parallel::Communicator& ranks_;
  scheduler::Scheduler& scheduler_;
  scheduler::Executor& executor_;
  RunCounters& counters_;
  std::function<double()> clock_;
  TraceLog* trace_;
  std::deque<double> submitted_;  // when, of the steps in flight
  double collected_ = 0.0;        // when, of the last one
  bool stalled_ = false;          // the last plan was empty
};

}  // namespace nightshift::runtime
