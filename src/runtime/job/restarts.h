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

// So many failures in a row, with pauses of 1, 2, 4 ... 60 seconds. Progress begins the count anew; so does a
// failure that narrows the search for a deadly prompt, as often as a search can need without a single answer
// in between: where a machine kills whatever runs on it, every prompt looks deadly.
class RestartBudget {
 public:
  explicit RestartBudget(int most) : most_(most) {}

  // Of one more failure: the pause before the next start, in seconds; nullopt when there have been enough.
  // progress: there are new answers since the last one.
  std::optional<double> failed(bool progress, bool narrower);
  int in_a_row() const { return in_a_row_; }

 private:
  int most_;
  int in_a_row_ = 0;
  int narrowings_ = 0;  // since the last answer
};

}  // namespace nightshift::runtime
