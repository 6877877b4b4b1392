// SPDX-License-Identifier: Apache-2.0
// Finished answers, durable at once, and how far those under way have come. Every process appends to a file
// of its own, OUTPUT.h5.journal/rank-*.journal, and never to another's; the union of the files is the truth
// from which the result is built.
//
// File (little-endian):
//   header 64 bytes: magic "NSJRNL\r\n", version u32, header bytes u32, job u64 (Manifest::fingerprint),
//   created u64
//                    (ns since 1970), rank u32, zero u32, nonce u64, zero u64, XXH3-64 of the 56 bytes before
//   record:          mark "NSR" + kind u8 (1 a finished sample, 2 a piece of one under way: checkpoints.h),
//   length u32, row u64, sample u32, samples u32, XXH3-64 of the payload u64,
//                    XXH3-64 (seeded with the nonce) of the 32 bytes before, u64; then the payload of
//                    `length` bytes
// The header hash stands before the payload, so that a damaged length is noticed before anything is read or
// allocated. A record that does not check is a torn tail if nothing valid follows it, a damaged stretch if
// something does; both count as never written, and their rows run again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/types.h"
#include "io/checkpoints.h"

namespace nightshift::io {

// One finished sample of one prompt. Times are seconds since the job's start.
struct ResultRecord {
  PromptRow row = 0;
  std::int32_t sample = 0;   // 0 .. samples - 1
  std::int32_t samples = 1;  // answers this prompt gives (n); 1 for a prompt that failed before n was known
  FinishReason finish_reason = FinishReason::none;
  std::string error;  // empty when fine
  std::vector<TokenId> tokens;
  std::string text;  // UTF-8
  std::int32_t prompt_tokens = 0;
  std::int32_t cached_tokens = 0;
  double started_s = 0.0;
  double first_token_s = 0.0;
  double finished_s = 0.0;
  std::vector<float> logprobs;    // [tokens], or empty
  std::int32_t top_k = 0;         // columns of `top`
  std::vector<TokenLogprob> top;  // [tokens, top_k] row-major; token -1 where fewer were available

  bool same_answer(const ResultRecord& other) const;  // everything except times and cached_tokens
};

inline constexpr PromptRow kMaxRows = PromptRow{1} << 36;
inline constexpr std::int32_t kMaxSamples = (1 << 14) - 1;

struct JournalOptions {
  double commit_seconds = 1.0;  // a record is durable at most this long after append (plus the disk's time)
  std::size_t commit_bytes = 4u << 20;  // or when this much waits
  std::size_t max_waiting =
      256u << 20;  // append blocks beyond this: a disk that cannot follow must not eat memory
};

// Append-only file of this process. append() is for one thread (the engine's); the rest may be called from
// any.
class ResultJournal {
 public:
  // Creates DIRECTORY/rank-RANK-UNIQUE.journal; the directory must exist. `job` is Manifest::fingerprint().
  ResultJournal(const std::string& directory, int rank, std::uint64_t job, JournalOptions options = {});
  ~ResultJournal();  // closes; an error is lost here, so call close()
  ResultJournal(const ResultJournal&) = delete;
  ResultJournal& operator=(const ResultJournal&) = delete;

  // Copies the record into a buffer; a thread of its own writes and syncs. Throws Error if an earlier commit
  // failed (disk full, I/O error): nothing appended since the last commit is durable then.
  void append(const ResultRecord& record);
  void append(const ProgressRecord& record);
  void flush();  // returns when everything appended is durable
  void close();  // flush and close; idempotent

  std::uint64_t appended() const;
  std::uint64_t durable() const;  // the first durable() appended records survive a crash
  const std::string& path() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Outcome of reading journals, for the log and the provenance.
struct JournalHealth {
  std::uint64_t files = 0;
  std::uint64_t records = 0;     // finished samples that check, duplicates included
  std::uint64_t duplicates = 0;  // same row and sample again; the first committed one counts
  std::uint64_t conflicts =
      0;  // duplicates whose answer differs: never happens for one job on one kernel set
  std::uint64_t superseded = 0;     // set aside by supersede_answers()
  std::uint64_t torn_bytes = 0;     // behind the last record that checks
  std::uint64_t damaged_bytes = 0;  // between records that check
};

inline constexpr std::size_t kEntriesInMemory = 2u << 20;

// Where every durable record lies. Constant memory, whatever the number of answers: up to `in_memory` entries
// (one per finished sample, 16 bytes: 32 MiB) stay there; of more, 16 bytes each lie in a temporary file
// (while it is made, 32) that is mapped, so that the kernel holds as much of it as it has room for. That file
// has no name and goes with the process. It lies in DIRECTORY, or in $TMPDIR (else /tmp) where DIRECTORY may
// not be written. What grows in memory is only what is under way: 16 bytes per piece of an answer that has
// not ended (checkpoints.h), at most those of the sequences that ran at once, for each start.
class JournalIndex {
 public:
  // Reads every journal of the directory (none is fine). Error when a journal belongs to another job, or when
  // there is no room for the temporary file.
  JournalIndex(const std::string& directory, std::uint64_t job, std::size_t in_memory = kEntriesInMemory);
  ~JournalIndex();
  JournalIndex(JournalIndex&&) noexcept;
  JournalIndex& operator=(JournalIndex&&) noexcept;

  bool committed(PromptRow row) const;  // all samples of the row
  bool committed(PromptRow row, std::int32_t sample) const;
  std::uint64_t size() const;            // distinct (row, sample)
  std::uint64_t committed_rows() const;  // rows with all their samples
  const JournalHealth& health() const;
  const Checkpoints& checkpoints() const;  // of samples that are not committed

  // What is committed, in order of (row, sample), without reading it.
  void for_each_key(
      const std::function<void(PromptRow row, std::int32_t sample, std::int32_t samples)>& visit) const;
  // All records in order of (row, sample), each read and checked again. Error when a record has gone bad
  // since.
  void for_each(const std::function<void(const ResultRecord&)>& visit) const;
  // Records of one row in order of sample; empty when there are none.
  std::vector<ResultRecord> read(PromptRow row) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Cuts torn tails off every journal of the directory; returns the bytes removed. A journal whose own header
// is damaged is set aside as *.damaged. Only under the job's lock and before ranks start: to a bystander, a
// record being written looks torn.
std::uint64_t cut_torn_tails(const std::string& directory);

}  // namespace nightshift::io
