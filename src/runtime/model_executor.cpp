// SPDX-License-Identifier: Apache-2.0
#include "runtime/model_executor.h"

#include <algorithm>

namespace nightshift::runtime {

scheduler::Capacity ModelExecutor::capacity() const {
  const model::StepLimits& limits = model_.limits();
  return {static_cast<int>(limits.kv_blocks), limits.max_query_tokens, limits.max_sampled_rows,
          model_.pipeline_depth(), true};
}

void ModelExecutor::submit(const BatchPlan& plan) {
  const parallel::Layout layout = policy_.choose(plan);
  if (counters_ != nullptr && last_ && *last_ != layout) ++counters_->shifts;
  last_ = layout;
  in_flight_.push_back({layout, plan.query_tokens, Clock::now()});
  model_.submit(plan, layout);
}

// A step has the device to itself from the end of the one before.
StepResult ModelExecutor::collect() {
  StepResult result = model_.collect();
  const Submitted step = in_flight_.front();
  in_flight_.pop_front();
  const auto begin = std::max(step.at, collected_), end = Clock::now();
  collected_ = end;
  const bool base = step.layout == parallel::Layout::base;
  if (trace_ != nullptr) trace_->add(base ? "compute base" : "compute shift", begin, end, step.tokens);
  if (counters_ != nullptr) {
    const auto layout = static_cast<std::size_t>(step.layout);
    ++counters_->layout_steps[layout];
    counters_->layout_tokens[layout] += static_cast<std::uint64_t>(step.tokens);
    counters_->layout_seconds[layout] += std::chrono::duration<double>(end - begin).count();
  }
  return result;
}

}  // namespace nightshift::runtime
