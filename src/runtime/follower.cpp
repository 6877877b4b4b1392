// SPDX-License-Identifier: Apache-2.0
#include "runtime/follower.h"

#include "core/check.h"

namespace nightshift::runtime {

void Follower::run() {
  RunCounters& counters = replica_.counters();
  const double start = replica_.now();
  for (bool end = false; !end;) {
    const bool busy = replica_.in_flight() > 0;
    const std::optional<StepResult> result = replica_.collect_due();
    const double before = replica_.now();
    working(busy);  // the leader of an idle replica is silent
    Orders orders = replica_.receive();
    working(true);
    if (!busy) counters.idle_seconds += replica_.now() - before;  // the leader had nothing to run
    end = orders.end;
    obey(std::move(orders), result);
    if (!end) replica_.advance();
  }
  while (replica_.in_flight() > 0) replica_.scheduler().commit(replica_.collect());
  counters.host_seconds = replica_.now() - start - counters.compute_seconds - counters.idle_seconds;
  replica_.scheduler().audit();
}

// In the order in which the leader has done the same.
void Follower::obey(Orders&& orders, const std::optional<StepResult>& result) {
  scheduler::Scheduler& scheduler = replica_.scheduler();
  if (result) scheduler.commit(*result, orders.stop);
  for (const SequenceId id : orders.cancel) scheduler.cancel(id);
  for (scheduler::Request& request : orders.admitted) {
    const auto refused = scheduler.add(std::move(request));
    NS_CHECK(!refused, "the leader's scheduler took a request that this one refuses: {}", *refused);
  }
  if (orders.closed) scheduler.close();
}

void Follower::working(bool yes) const {
  if (heartbeat_ != nullptr) heartbeat_->working(yes);
}

}  // namespace nightshift::runtime
