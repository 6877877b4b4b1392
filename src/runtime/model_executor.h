// SPDX-License-Identifier: Apache-2.0
// The scheduler's Executor over the real model: asks the policy for each step's layout and counts what came
// of it.
#pragma once

#include <chrono>
#include <deque>
#include <optional>

#include "core/trace.h"
#include "model/model.h"
#include "parallel/layout/shift_policy.h"
#include "runtime/job/session.h"
#include "scheduler/scheduler.h"

namespace nightshift::runtime {

class ModelExecutor final : public scheduler::Executor {
 public:
  // All references must outlive the executor. `counters`: of the replica's leader, null on its followers;
  // `trace` may be null.
  ModelExecutor(model::Model& model, parallel::ShiftPolicy& policy, RunCounters* counters, TraceLog* trace)
      : model_(model), policy_(policy), counters_(counters), trace_(trace) {}

  scheduler::Capacity capacity() const override;
  void submit(const BatchPlan& plan) override;
  StepResult collect() override;

 private:
  using Clock = TraceLog::Clock;

  model::Model& model_;
  parallel::ShiftPolicy& policy_;
  RunCounters* counters_;
  TraceLog* trace_;
  struct Submitted {
    parallel::Layout layout;
    int tokens;  // query tokens
    Clock::time_point at;
  };
  std::deque<Submitted> in_flight_;
  std::optional<parallel::Layout> last_;  // of the step submitted last
  Clock::time_point collected_;           // the last one
};

}  // namespace nightshift::runtime
