// SPDX-License-Identifier: Apache-2.0
// Answers in the journals that no longer count, because their rows are to be answered once more. Journals are
// only ever appended to, so the file DIRECTORY/superseded names their records instead:
//
//   magic "NSSUPR\r\n", count u64, then count times, in order: hash u64 and offset u64 of a record's header;
//   XXH3-64 of all that
//
// A record's hash is seeded with its file's nonce, so it names the record among all files. The file is
// replaced as a whole: a crash leaves the old list or the new one. It is mapped, not copied: only
// supersede_answers() takes memory, 32 bytes per answer in it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/files.h"
#include "io/journal.h"

namespace nightshift::io {

struct RecordHeader;

class Superseded {
 public:
  static Superseded load(
      const std::string& directory);  // empty where there is none; Error when it is damaged
  void save(const std::string& directory) const;

  void add(const RecordHeader& header, std::uint64_t offset);
  bool holds(const RecordHeader& header, std::uint64_t offset) const;  // of those that load() has found

 private:
  struct Record {
    std::uint64_t hash, offset;
    auto operator<=>(const Record&) const = default;
  };
  std::span<const Record> saved() const;

  std::optional<MappedFile> file_;
  std::vector<Record> added_;
};

// From now on the answers that `which` picks do not count: their rows are open again, and the newest answer
// is the one that is left. Returns how many. Only under the job's lock and before ranks start.
std::uint64_t supersede_answers(const std::string& directory,
                                const std::function<bool(const ResultRecord&)>& which);

}  // namespace nightshift::io
