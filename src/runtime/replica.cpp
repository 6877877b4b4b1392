// SPDX-License-Identifier: Apache-2.0
#include "runtime/replica.h"

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

const BatchPlan& Replica::plan() {
  const TraceScope scope(trace_, "plan");
  return scheduler_.plan();
}

StepResult Replica::execute(const BatchPlan& plan) {
  const double before = clock_();
  executor_.submit(plan);
  StepResult result = executor_.collect();
  const double seconds = clock_() - before;
  counters_.compute_seconds += seconds;
  if (leads()) counters_.step.add(seconds);
  return result;
}

}  // namespace nightshift::runtime
