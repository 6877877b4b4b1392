// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <span>
#include <tuple>
#include <unordered_map>

#include "core/check.h"
#include "io/checkpoint_pieces.h"
#include "io/journal.h"
#include "io/journal_format.h"
#include "io/journal_source.h"
#include "io/sorted_entries.h"
#include "io/superseded.h"

namespace nightshift::io {

namespace {

// Of equal samples the first in order stays: the one that was committed first. The others are compared with
// it.
class FirstOfEach {
 public:
  FirstOfEach(const std::vector<JournalFile>& files, JournalHealth& health)
      : source_(files), health_(health) {}

  bool stays(const Entry& entry) {
    if (!first_ || first_->identity() != entry.identity()) {
      first_ = entry;
      return true;
    }
    ++health_.duplicates;
    source_.read(*first_, record_);
    source_.read(entry, again_);
    if (!record_.same_answer(again_)) ++health_.conflicts;
    return false;
  }

 private:
  RecordSource source_;
  JournalHealth& health_;
  std::optional<Entry> first_;
  ResultRecord record_, again_;
};

}  // namespace

struct JournalIndex::Impl {
  std::vector<JournalFile> files;  // in order of creation
  SortedEntries finished;          // samples, ordered by (row, sample)
  std::vector<Entry> pieces;       // of samples under way; emptied once they are in `checkpoints`
  Checkpoints checkpoints;
  JournalHealth health;
  Superseded superseded;
  std::uint64_t committed_rows = 0;

  Impl(const std::string& directory, std::size_t in_memory)
      : finished(directory, in_memory), superseded(Superseded::load(directory)) {}

  // "First committed" must mean the same in every process: by the journals' time of creation, then by place.
  // So the numbers of the files have to be known before any of them is scanned.
  void list_files(const std::string& directory, std::uint64_t job) {
    for (const std::string& path : list_journals(directory)) {
      const FileHandle file(path, O_RDONLY);
      const std::optional<FileHeader> header = read_file_header(file);
      ++health.files;
      if (!header) {
        health.torn_bytes += file.size();
        continue;
      }
      if (header->job != job) {
        throw Error(fmt::format("{} belongs to another job", path),
                    "start with --restart to set the old journal aside, or choose another output");
      }
      files.push_back({path, header->created_ns, header->nonce});
    }
    std::sort(files.begin(), files.end(), [](const JournalFile& a, const JournalFile& b) {
      return std::tie(a.created_ns, a.path) < std::tie(b.created_ns, b.path);
    });
  }

  void scan(std::uint64_t number) {
    const FileHandle file(files[number].path, O_RDONLY);
    // A sample mostly ends in the file where it began, so that few are under way at any place of the file.
    std::unordered_map<std::uint64_t, std::vector<Entry>> under_way;
    const auto keep = [&](const RecordHeader& h, std::uint64_t offset) {
      const Entry entry = Entry::of(h, number, offset);
      if (h.kind == static_cast<std::uint8_t>(RecordKind::result)) {
        under_way.erase(entry.identity());
        if (superseded.holds(h, offset)) return void(++health.superseded);
        ++health.records;
        finished.add(entry);
      } else if (h.kind == static_cast<std::uint8_t>(RecordKind::progress)) {
        under_way[entry.identity()].push_back(entry);
      }
    };
    const JournalScan scan = scan_journal(file, keep);
    health.torn_bytes += scan.file_bytes - scan.committed_end;
    health.damaged_bytes += scan.damaged_bytes;
    for (const auto& [sample, places] : under_way) pieces.insert(pieces.end(), places.begin(), places.end());
  }

  // Of what is finished, no piece counts; of the rest, with the few files that they lie in.
  void keep_pieces() {
    const std::span<const Entry> entries = finished.entries();
    const auto is_void = [&](const Entry& piece) {
      const auto less = [](const Entry& a, const Entry& b) { return a.identity() < b.identity(); };
      return std::binary_search(entries.begin(), entries.end(), piece, less);
    };
    std::erase_if(pieces, is_void);
    std::sort(pieces.begin(), pieces.end(), by_identity_and_place);
    auto kept = std::make_shared<Checkpoints::Pieces>();
    std::unordered_map<std::uint64_t, std::uint64_t> numbers;
    for (const Entry& piece : pieces) {
      const auto [at, is_new] = numbers.try_emplace(piece.file(), kept->files.size());
      if (is_new) kept->files.push_back(files[piece.file()]);
      kept->entries.push_back(piece.in_file(at->second));
    }
    pieces = std::vector<Entry>();
    checkpoints = Checkpoints(std::move(kept));
  }

  std::span<const Entry> of_row(PromptRow row) const {
    const auto less = [](const Entry& entry, PromptRow value) { return entry.row() < value; };
    const std::span<const Entry> entries = finished.entries();
    const auto first = std::lower_bound(entries.begin(), entries.end(), row, less);
    auto last = first;
    while (last != entries.end() && last->row() == row) ++last;
    return {first, last};
  }

  static bool is_complete(std::span<const Entry> samples) {
    const auto fewer = [](const Entry& a, const Entry& b) { return a.samples() < b.samples(); };
    const auto most =
        std::max_element(samples.begin(), samples.end(), fewer);  // a row set aside counts as 1 sample
    return most != samples.end() && samples.size() >= static_cast<std::size_t>(most->samples());
  }

  void count_rows() {
    const std::span<const Entry> entries = finished.entries();
    for (std::size_t i = 0; i < entries.size();) {
      std::size_t end = i + 1;
      while (end < entries.size() && entries[end].row() == entries[i].row()) ++end;
      if (is_complete(entries.subspan(i, end - i))) ++committed_rows;
      i = end;
    }
  }
};

JournalIndex::JournalIndex(const std::string& directory, std::uint64_t job, std::size_t in_memory)
    : impl_(std::make_unique<Impl>(directory, in_memory)) {
  impl_->list_files(directory, job);
  for (std::uint64_t number = 0; number < impl_->files.size(); ++number) impl_->scan(number);
  FirstOfEach first(impl_->files, impl_->health);
  impl_->finished.finish([&](const Entry& entry) { return first.stays(entry); });
  impl_->keep_pieces();
  impl_->count_rows();
}

JournalIndex::~JournalIndex() = default;
JournalIndex::JournalIndex(JournalIndex&&) noexcept = default;
JournalIndex& JournalIndex::operator=(JournalIndex&&) noexcept = default;

bool JournalIndex::committed(PromptRow row) const {
  return Impl::is_complete(impl_->of_row(row));
}

bool JournalIndex::committed(PromptRow row, std::int32_t sample) const {
  for (const Entry& entry : impl_->of_row(row)) {
    if (entry.sample() == sample) return true;
  }
  return false;
}

std::uint64_t JournalIndex::size() const {
  return impl_->finished.entries().size();
}

std::uint64_t JournalIndex::committed_rows() const {
  return impl_->committed_rows;
}

const JournalHealth& JournalIndex::health() const {
  return impl_->health;
}

const Checkpoints& JournalIndex::checkpoints() const {
  return impl_->checkpoints;
}

void JournalIndex::for_each_key(
    const std::function<void(PromptRow, std::int32_t, std::int32_t)>& visit) const {
  for (const Entry& entry : impl_->finished.entries()) visit(entry.row(), entry.sample(), entry.samples());
}

void JournalIndex::for_each(const std::function<void(const ResultRecord&)>& visit) const {
  RecordSource source(impl_->files);
  ResultRecord record;
  for (const Entry& entry : impl_->finished.entries()) {
    source.read(entry, record);
    visit(record);
  }
}

std::vector<ResultRecord> JournalIndex::read(PromptRow row) const {
  RecordSource source(impl_->files);
  std::vector<ResultRecord> records;
  for (const Entry& entry : impl_->of_row(row)) source.read(entry, records.emplace_back());
  return records;
}

std::uint64_t cut_torn_tails(const std::string& directory) {
  std::uint64_t removed = 0;
  for (const std::string& path : list_journals(directory)) {
    const FileHandle file(path, O_RDWR);
    const JournalScan scan = scan_journal(file, [](const RecordHeader&, std::uint64_t) {});
    if (scan.committed_end == scan.file_bytes) continue;
    if (!scan.has_header && scan.file_bytes > sizeof(FileHeader)) {
      // Not a crash while it was created: the storage has damaged it. Its rows run again; its bytes stay for
      // a look.
      std::filesystem::rename(path, path + ".damaged");
      continue;
    }
    removed += scan.file_bytes - scan.committed_end;
    file.truncate(scan.committed_end);
    file.sync_data();
  }
  return removed;
}

}  // namespace nightshift::io
