// SPDX-License-Identifier: Apache-2.0
// THE loop, of a rank that leads a replica. One round: observe and commit the step that is due, admit, give
// orders, emit, plan and submit the next step. On CPUs a step ends within its round; where steps overlap, one
// runs meanwhile.
#pragma once

#include <cstdint>
#include <functional>

#include "core/cost.h"
#include "core/types.h"
#include "runtime/emitter.h"
#include "runtime/intake.h"
#include "runtime/replica.h"

namespace nightshift::runtime {

class Engine {
 public:
  // Every `checkpoint_seconds` (0: never) and when it stops early, the engine journals how far its answers
  // have come. `tick` is called between steps (progress, signals) and returns false when the engine must stop
  // early. All references must outlive the engine.
  Engine(Intake& intake, Replica& replica, Emitter& emitter, const ModelShape& shape, std::uint64_t job_seed,
         double checkpoint_seconds, std::function<bool()> tick)
      : intake_(intake),
        replica_(replica),
        scheduler_(replica.scheduler()),
        emitter_(emitter),
        counters_(replica.counters()),
        shape_(shape),
        job_seed_(job_seed),
        checkpoint_seconds_(checkpoint_seconds),
        tick_(std::move(tick)) {}

  // Until the queue is empty and everything taken has been journalled (true), or tick() said stop (false).
  bool run();

 private:
  std::vector<scheduler::Finished> commit(const StepResult& result, std::vector<SequenceId>& stop,
                                          double now);
  void expire(Orders& orders, double now, std::vector<scheduler::Finished>& finished);
  void admit(Orders& orders);
  void enqueue(const PreparedPrompt& prompt, Orders& orders);
  void checkpoint();
  void emit(std::vector<scheduler::Finished>&& finished, double now);
  void step();
  void drain();
  void wait();
  void settle();

  Intake& intake_;
  Replica& replica_;
  scheduler::Scheduler& scheduler_;
  Emitter& emitter_;
  RunCounters& counters_;
  ModelShape shape_;
  std::uint64_t job_seed_;
  double checkpoint_seconds_;
  double last_checkpoint_ = 0.0;  // the replica's clock
  std::function<bool()> tick_;
  SequenceId next_id_ = 1;
};

}  // namespace nightshift::runtime
