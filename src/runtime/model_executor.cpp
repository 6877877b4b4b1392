// SPDX-License-Identifier: Apache-2.0
#include "runtime/model_executor.h"

namespace nightshift::runtime {

scheduler::Capacity ModelExecutor::capacity() const {
  const model::StepLimits& limits = model_.limits();
  return {static_cast<int>(limits.kv_blocks), limits.max_query_tokens, limits.max_sampled_rows, 1, true};
}

void ModelExecutor::submit(const BatchPlan& plan) {
  const parallel::Layout layout = policy_.choose(plan);
  if (counters_ != nullptr && last_ && *last_ != layout) ++counters_->shifts;
  last_ = layout;
  tokens_ = plan.query_tokens;
  submitted_ = Clock::now();
  model_.submit(plan, layout);
}

StepResult ModelExecutor::collect() {
  StepResult result = model_.collect();
  const auto now = Clock::now();
  const bool base = *last_ == parallel::Layout::base;
  if (trace_ != nullptr) trace_->add(base ? "compute base" : "compute shift", submitted_, now, tokens_);
  if (counters_ != nullptr) {
    const auto layout = static_cast<std::size_t>(*last_);
    ++counters_->layout_steps[layout];
    counters_->layout_tokens[layout] += static_cast<std::uint64_t>(tokens_);
    counters_->layout_seconds[layout] += std::chrono::duration<double>(now - submitted_).count();
  }
  return result;
}

}  // namespace nightshift::runtime
