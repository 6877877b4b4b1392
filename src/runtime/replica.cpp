// SPDX-License-Identifier: Apache-2.0
#include "runtime/replica.h"

#include <algorithm>

namespace nightshift::runtime {

void Replica::send(const Orders& orders) const {
  if (!has_followers()) return;
  const TraceScope scope(trace_, "orders");
  std::string text = orders.encode();
  ranks_.broadcast(parallel::Traffic::orders, text);
}

Orders Replica::receive() const {
  const TraceScope scope(trace_, "orders");
  std::string text;
  ranks_.broadcast(parallel::Traffic::orders, text);
  return Orders::decode(text);
}

const BatchPlan& Replica::advance(const std::function<void(const BatchPlan&)>& before) {
  const BatchPlan& plan = [&]() -> const BatchPlan& {
    const TraceScope scope(trace_, "plan");
    return scheduler_.plan();
  }();
  stalled_ = plan.empty();
  if (stalled_) return plan;
  if (before) before(plan);
  submitted_.push_back(clock_());
  executor_.submit(plan);
  return plan;
}

std::optional<StepResult> Replica::collect_due() {
  if (in_flight() == 0) return std::nullopt;
  if (!stalled_ && in_flight() < scheduler_.options().pipeline_depth) return std::nullopt;
  return collect();
}

// A step's time begins when the one before has ended: until then the device was not its own.
StepResult Replica::collect() {
  StepResult result = executor_.collect();
  const double now = clock_();
  const double seconds = now - std::max(submitted_.front(), collected_);
  submitted_.pop_front();
  collected_ = now;
  counters_.compute_seconds += seconds;
  if (leads()) counters_.step.add(seconds);
  return result;
}

}  // namespace nightshift::runtime
