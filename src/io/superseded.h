// SPDX-License-Identifier: Apache-2.0
// Answers in the journals that no longer count, because their rows are to be answered once more. Journals are
// only ever appended to, so the file DIRECTORY/superseded names their records instead:
//
//   magic "NSSUPR\r\n", count u64, then count times: hash u64 and offset u64 of a record's header; XXH3-64 of
//   all that
//
// A record's hash is seeded with its file's nonce, so it names the record among all files. The file is
// replaced as a whole: a crash leaves the old list or the new one.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "io/journal.h"

namespace nightshift::io {

struct RecordHeader;

class Superseded {
 public:
  static Superseded load(
      const std::string& directory);  // empty where there is none; Error when it is damaged
  void save(const std::string& directory) const;

  void add(const RecordHeader& header, std::uint64_t offset);
  bool holds(const RecordHeader& header, std::uint64_t offset) const;

 private:
  std::set<std::pair<std::uint64_t, std::uint64_t>> records_;  // (hash, offset)
};

// From now on the answers that `which` picks do not count: their rows are open again, and the newest answer
// is the one that is left. Returns how many. Only under the job's lock and before ranks start.
std::uint64_t supersede_answers(const std::string& directory,
                                const std::function<bool(const ResultRecord&)>& which);

}  // namespace nightshift::io
