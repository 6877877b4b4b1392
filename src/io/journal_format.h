// SPDX-License-Identifier: Apache-2.0
// The bytes of a journal (journal.h describes them) and the scan that finds the records which check.
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

inline constexpr std::uint32_t kJournalVersion = 1;
inline constexpr std::uint32_t kMaxPayload = 1u << 30;
inline constexpr char kJournalSuffix[] = ".journal";

struct FileHeader {
  char magic[8];
  std::uint32_t version, header_bytes;
  std::uint64_t job, created_ns;
  std::uint32_t rank, zero;
  std::uint64_t nonce, zero2;
  std::uint64_t hash;  // of the 56 bytes before
};
static_assert(sizeof(FileHeader) == 64);

struct RecordHeader {
  char mark[3];
  std::uint8_t kind;
  std::uint32_t length;  // of the payload
  std::uint64_t row;
  std::uint32_t sample, samples;
  std::uint64_t payload_hash;
  std::uint64_t
      hash;  // of the 32 bytes before, seeded with the file's nonce: another file's bytes never check
};
static_assert(sizeof(RecordHeader) == 40);

// A reader passes over kinds that it does not know, so adding one leaves the version as it is.
enum class RecordKind : std::uint8_t { result = 1, progress = 2 };

FileHeader make_file_header(std::uint64_t job, int rank);
bool checks(const FileHeader& header);
bool checks(const RecordHeader& header, std::uint64_t nonce);

bool payload_checks(const RecordHeader& header, std::span<const char> payload);
// Fills in mark, length and hashes; kind, row, sample and samples are there.
void seal(RecordHeader& header, std::span<const char> payload, std::uint64_t nonce);

// journal_records.cpp
void encode_record(const ResultRecord& record, std::uint64_t nonce, std::vector<char>& out);  // appends
void encode_record(const ProgressRecord& record, std::uint64_t nonce, std::vector<char>& out);
// False when the bytes are not a payload of that kind; `record` is then unspecified.
bool decode_payload(const RecordHeader& header, std::span<const char> payload, ResultRecord& record);
bool decode_payload(const RecordHeader& header, std::span<const char> payload, ProgressRecord& record);

// One scanned file. `committed_end`: where the last record that checks ends.
struct JournalScan {
  FileHeader header{};
  bool has_header = false;  // false: cut off before its header was complete
  std::uint64_t file_bytes = 0;
  std::uint64_t committed_end = 0;
  std::uint64_t damaged_bytes = 0;
};

// None when the file was cut off before its header was complete, or the header is damaged. Error for a
// journal of another version.
std::optional<FileHeader> read_file_header(const FileHandle& file);

// Reads a journal from start to end through a window of a few MiB; `visit` gets each record that checks, in
// file order.
JournalScan scan_journal(const FileHandle& file,
                         const std::function<void(const RecordHeader&, std::uint64_t offset)>& visit);

// Journals of a directory, by name.
std::vector<std::string> list_journals(const std::string& directory);

}  // namespace nightshift::io
