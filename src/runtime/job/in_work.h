// SPDX-License-Identifier: Apache-2.0
// Which prompts a leader has in its hands, in a file that outlives it: DIR/in-work-RANK. When ranks die, the
// launcher learns there which prompts may have killed them. The file is an array of slots, each a range of
// rows (first u64, count u64, little-endian; count 0: free). A change is one write of 16 bytes: what the
// kernel has survives the process, and that is all it is for, so nothing is ever synced; a file system that
// cannot take it is no reason to stop a rank.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <vector>

#include "core/types.h"
#include "io/files.h"

namespace nightshift::runtime {

class InWork {
 public:
  InWork(const std::filesystem::path& dir, int rank);

  // Rows that are being read and tokenized now, on the intake's thread; count 0: none.
  void reading(PromptRow first, std::uint64_t count) const { write(0, first, count); }
  // A row that the scheduler gets: the slot to free when its answer is there. Engine's thread.
  std::size_t add(PromptRow row);
  void remove(std::size_t slot);

 private:
  void write(std::size_t slot, PromptRow first, std::uint64_t count) const;

  io::FileHandle file_;
  std::vector<std::size_t> free_;
  std::size_t slots_ = 1;  // 0 is the intake's
};

std::set<PromptRow> read_in_work(const std::filesystem::path& dir);  // of all leaders
void remove_in_work(const std::filesystem::path& dir);

}  // namespace nightshift::runtime
