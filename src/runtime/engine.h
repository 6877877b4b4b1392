// SPDX-License-Identifier: Apache-2.0
// The loop. One step is four verbs: plan, execute, commit, emit.
#pragma once

#include <cstdint>
#include <functional>

#include "core/cost.h"
#include "core/types.h"
#include "runtime/emitter.h"
#include "runtime/intake.h"
#include "scheduler/scheduler.h"

namespace nightshift::runtime {

class Engine {
 public:
  // `clock` tells seconds since the job's start; `tick` is called between steps (progress, signals) and
  // returns false when the engine must stop early. All references must outlive the engine.
  Engine(Intake& intake, scheduler::Scheduler& scheduler, scheduler::Executor& executor, Emitter& emitter,
         RunCounters& counters, const ModelShape& shape, std::uint64_t job_seed,
         std::function<double()> clock, std::function<bool()> tick)
      : intake_(intake),
        scheduler_(scheduler),
        executor_(executor),
        emitter_(emitter),
        counters_(counters),
        shape_(shape),
        job_seed_(job_seed),
        clock_(std::move(clock)),
        tick_(std::move(tick)) {}

  // Until the queue is empty and everything taken has been journalled (true), or tick() said stop (false).
  bool run();

 private:
  void admit();
  void enqueue(const PreparedPrompt& prompt);
  StepResult execute(const BatchPlan& plan);
  void settle();

  Intake& intake_;
  scheduler::Scheduler& scheduler_;
  scheduler::Executor& executor_;
  Emitter& emitter_;
  RunCounters& counters_;
  ModelShape shape_;
  std::uint64_t job_seed_;
  std::function<double()> clock_;
  std::function<bool()> tick_;
  SequenceId next_id_ = 1;
};

}  // namespace nightshift::runtime
