// SPDX-License-Identifier: Apache-2.0
#include "runtime/follower.h"

#include "core/check.h"

namespace nightshift::runtime {

void Follower::run() {
  RunCounters& counters = replica_.counters();
  const double start = replica_.now();
  for (bool end = false; !end;) {
    const double before = replica_.now();
    working(result_.has_value());  // the leader of an idle replica is silent
    Orders orders = replica_.receive();
    working(true);
    if (!result_) counters.idle_seconds += replica_.now() - before;  // the leader had nothing to run
    end = orders.end;
    obey(std::move(orders));
    if (!end) result_ = step();
  }
  counters.host_seconds = replica_.now() - start - counters.compute_seconds - counters.idle_seconds;
  replica_.scheduler().audit();
}

// In the order in which the leader has done the same.
void Follower::obey(Orders&& orders) {
  scheduler::Scheduler& scheduler = replica_.scheduler();
  if (result_) scheduler.commit(*result_, orders.stop);
  result_.reset();
  for (const SequenceId id : orders.cancel) scheduler.cancel(id);
  for (scheduler::Request& request : orders.admitted) {
    const auto refused = scheduler.add(std::move(request));
    NS_CHECK(!refused, "the leader's scheduler took a request that this one refuses: {}", *refused);
  }
  if (orders.closed) scheduler.close();
}

std::optional<StepResult> Follower::step() {
  const BatchPlan& plan = replica_.plan();
  if (plan.empty()) return std::nullopt;
  return replica_.execute(plan);
}

void Follower::working(bool yes) const {
  if (heartbeat_ != nullptr) heartbeat_->working(yes);
}

}  // namespace nightshift::runtime
