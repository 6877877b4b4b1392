// SPDX-License-Identifier: Apache-2.0
// What the leader of a replica tells its followers, once per step, and all it tells them: everything else
// they compute for themselves, since every rank of a replica runs the same scheduler.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "scheduler/scheduler.h"

namespace nightshift::runtime {

struct Orders {
  std::vector<SequenceId> stop;              // for the commit of the step just run
  std::vector<SequenceId> cancel;            // end where they stand, after that commit
  std::vector<scheduler::Request> admitted;  // accepted by the leader's scheduler, in its order
  bool closed = false;                       // nothing will be admitted any more
  bool end = false;                          // the last orders: done, or stopped early

  // Bytes as they lie in memory: the ranks of a replica run one program on machines of one kind.
  std::string encode() const;
  static Orders decode(std::string_view bytes);  // throws Error unless it is exactly what encode() made
};

}  // namespace nightshift::runtime
