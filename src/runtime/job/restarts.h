// SPDX-License-Identifier: Apache-2.0
// Whether and when ranks that have failed start again. Pure.
#pragma once

#include <optional>

namespace nightshift::runtime {

// Whether another start may end otherwise. `code`: of the launcher, 128 + signal for a killed rank; `worked`:
// ranks have once come as far as computing. An error that ranks report before that is one of the job, the
// model or the machine, and would come again; so would a disk without room for answers, which says nothing of
// the prompts in work.
bool worth_restarting(int code, bool worked);

// So many failures in a row, with pauses of 1, 2, 4 ... 60 seconds. Progress begins the count anew.
class RestartBudget {
 public:
  explicit RestartBudget(int most) : most_(most) {}

  // Of one more failure: the pause before the next start, in seconds; nullopt when there have been enough.
  std::optional<double> failed(bool progress);
  int in_a_row() const { return in_a_row_; }

 private:
  int most_;
  int in_a_row_ = 0;
};

}  // namespace nightshift::runtime
