// SPDX-License-Identifier: Apache-2.0
// The loop of a rank that follows: obey, plan, execute. It knows no prompts, no text and no journal.
#pragma once

#include <optional>

#include "runtime/replica.h"

namespace nightshift::runtime {

class Follower {
 public:
  explicit Follower(Replica& replica) : replica_(replica) {}  // which must outlive it

  void run();  // until the leader says that it ends

 private:
  void obey(Orders&& orders);
  std::optional<StepResult> step();

  Replica& replica_;
  std::optional<StepResult> result_;  // of the step not yet committed
};

}  // namespace nightshift::runtime
