// SPDX-License-Identifier: Apache-2.0
// The loop of a rank that follows: obey, plan, execute. It knows no prompts, no text and no journal.
#pragma once

#include <optional>

#include "runtime/job/heartbeat.h"
#include "runtime/replica.h"

namespace nightshift::runtime {

class Follower {
 public:
  // Both must outlive it; `heartbeat` may be null.
  explicit Follower(Replica& replica, Heartbeat* heartbeat = nullptr)
      : replica_(replica), heartbeat_(heartbeat) {}

  void run();  // until the leader says that it ends

 private:
  void obey(Orders&& orders, const std::optional<StepResult>& result);
  void working(bool yes) const;

  Replica& replica_;
  Heartbeat* heartbeat_;
};

}  // namespace nightshift::runtime
