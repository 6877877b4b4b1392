// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "io/io.h"
#include "parallel/parallel.h"
#include "runtime/job/suspects.h"

namespace nightshift::runtime {

// What earlier starts have committed, so that nothing is done twice. One bit per row; rows of which only some
// samples are done are kept one by one; of answers under way, where they lie. Rank 0 reads the journals once
// and tells the others.
class Committed {
 public:
  static Committed load(const std::string& journal_dir, std::uint64_t job, std::uint64_t rows,
                        const parallel::Communicator& ranks);  // collective

  void keep_to(const Scope& scope);  // what lies outside of it counts as done

  bool row(PromptRow row) const { return (bits_[row / 8] >> (row % 8) & 1) != 0; }
  bool rows(PromptRow first, std::uint64_t count) const;  // all of them
  bool sample(PromptRow at, std::int32_t sample) const { return row(at) || partial_.contains({at, sample}); }
  std::uint64_t samples() const { return samples_; }  // committed in all
  const io::Checkpoints& checkpoints() const { return checkpoints_; }
  std::uint64_t failed() const { return failed_; }  // of them; known to rank 0 only

 private:
  std::string bits_;
  std::set<std::pair<PromptRow, std::int32_t>> partial_;
  std::uint64_t samples_ = 0, failed_ = 0;
  io::Checkpoints checkpoints_;
};

}  // namespace nightshift::runtime
