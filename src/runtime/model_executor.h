// SPDX-License-Identifier: Apache-2.0
// The scheduler's Executor over the real model; the only file of the runtime besides rank.cpp that knows the
// model.
#pragma once

#include "model/model.h"
#include "scheduler/scheduler.h"

namespace nightshift::runtime {

class ModelExecutor final : public scheduler::Executor {
 public:
  explicit ModelExecutor(model::Model& model) : model_(model) {}

  scheduler::Capacity capacity() const override {
    const model::StepLimits& limits = model_.limits();
    return {static_cast<int>(limits.kv_blocks), limits.max_query_tokens, limits.max_sampled_rows, 1, true};
  }
  void submit(const BatchPlan& plan) override { model_.submit(plan); }
  StepResult collect() override { return model_.collect(); }

 private:
  model::Model& model_;
};

}  // namespace nightshift::runtime
