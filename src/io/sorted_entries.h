// SPDX-License-Identifier: Apache-2.0
// Any number of entries, put in order in bounded memory by an external merge sort (Knuth, The Art of Computer
// Programming 3, section 5.4.1): sorted runs go to a temporary file and are merged into a second one, which
// is then mapped. The temporary files take 32 bytes per entry while they are merged and 16 afterwards. They
// have no names (files.h), so nothing is left of them however the process ends.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/files.h"
#include "io/journal_source.h"

namespace nightshift::io {

class SortedEntries {
 public:
  // Up to `in_memory` (at least 1) entries, 16 bytes each, stay in memory; what is more lies in `directory`,
  // or in the folder for temporary files where that may not be written.
  SortedEntries(std::string directory, std::size_t in_memory);

  // Error when the temporary file cannot be written.
  void add(const Entry& entry);
  // Once, after the last add(): brings all in order (by_identity_and_place) and asks `keep` for each, in that
  // order, whether it stays.
  void finish(const std::function<bool(const Entry&)>& keep);
  // What has stayed, in order. Pages of a mapped file: the kernel may drop and read them again at any time.
  std::span<const Entry> entries() const;

 private:
  void end_run();
  void keep_in_memory(const std::function<bool(const Entry&)>& keep);
  void merge(const std::function<bool(const Entry&)>& keep);

  std::string directory_;
  std::size_t in_memory_;
  std::vector<Entry> waiting_;           // the run that grows; in the end everything, if there is no other
  FileHandle runs_;                      // one behind the other
  std::vector<std::uint64_t> run_ends_;  // in entries
  std::optional<MappedFile> merged_;
};

}  // namespace nightshift::io
