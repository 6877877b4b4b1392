// SPDX-License-Identifier: Apache-2.0
// Reads journal records at places that a scan has found.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/files.h"
#include "io/journal_format.h"

namespace nightshift::io {

// 16 bytes: row, sample and samples in one ordered key; journal number and offset.
struct Entry {
  static constexpr int kOffsetBits = 44;  // 16 TiB per journal, 1 M journals

  std::uint64_t key;       // row << 28 | sample << 14 | samples
  std::uint64_t location;  // file << 44 | offset

  static Entry of(const RecordHeader& h, std::uint64_t file, std::uint64_t offset) {
    return {h.row << 28 | std::uint64_t{h.sample} << 14 | h.samples, file << kOffsetBits | offset};
  }
  PromptRow row() const { return key >> 28; }
  std::int32_t sample() const { return static_cast<std::int32_t>(key >> 14 & 0x3fff); }
  std::int32_t samples() const { return static_cast<std::int32_t>(key & 0x3fff); }
  std::uint64_t identity() const { return key >> 14; }
  std::uint64_t file() const { return location >> kOffsetBits; }
  std::uint64_t offset() const { return location & ((std::uint64_t{1} << kOffsetBits) - 1); }
  Entry in_file(std::uint64_t number) const { return {key, number << kOffsetBits | offset()}; }
};
static_assert(sizeof(Entry) == 16);

inline bool by_identity_and_place(const Entry& a, const Entry& b) {
  return std::pair(a.identity(), a.location) < std::pair(b.identity(), b.location);
}

struct JournalFile {
  std::string path;
  std::uint64_t created_ns = 0, nonce = 0;
};

// Reads records at known places, a bounded number of files open at a time. `files` must outlive it.
class RecordSource {
 public:
  explicit RecordSource(const std::vector<JournalFile>& files) : files_(files) {}

  // Error when the record has gone bad since it was found.
  void read(const Entry& entry, ResultRecord& record);
  // False when it has: then nothing of an answer under way is to be had from there.
  bool read(const Entry& entry, ProgressRecord& record);

 private:
  template <class Record>
  bool load(const Entry& entry, Record& record);
  bool complete(const FileHandle& file, const Entry& entry, const RecordHeader& header);
  const FileHandle& open(std::uint64_t index);

  const std::vector<JournalFile>& files_;
  std::list<std::pair<std::uint64_t, FileHandle>> open_;  // most recently used first
  std::vector<char> bytes_;
};

}  // namespace nightshift::io
