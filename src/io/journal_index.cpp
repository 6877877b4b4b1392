// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <unordered_map>

#include "core/check.h"
#include "io/checkpoint_pieces.h"
#include "io/journal.h"
#include "io/journal_format.h"
#include "io/journal_source.h"
#include "io/superseded.h"

namespace nightshift::io {

struct JournalIndex::Impl {
  std::vector<JournalFile> files;  // in order of creation
  std::vector<Entry> entries;      // finished samples, ordered by (row, sample)
  std::vector<Entry> pieces;       // of samples under way; emptied once they are in `checkpoints`
  Checkpoints checkpoints;
  JournalHealth health;
  Superseded superseded;
  std::uint64_t committed_rows = 0;

  void scan(const std::string& path, std::uint64_t job) {
    const FileHandle file(path, O_RDONLY);
    const std::uint64_t number = files.size();
    // A sample mostly ends in the file where it began, so that few are under way at any place of the file.
    std::unordered_map<std::uint64_t, std::vector<Entry>> under_way;
    const auto keep = [&](const RecordHeader& h, std::uint64_t offset) {
      const Entry entry = Entry::of(h, number, offset);
      if (h.kind == static_cast<std::uint8_t>(RecordKind::result)) {
        under_way.erase(entry.identity());
        if (superseded.holds(h, offset)) return void(++health.superseded);
        entries.push_back(entry);
      } else if (h.kind == static_cast<std::uint8_t>(RecordKind::progress)) {
        under_way[entry.identity()].push_back(entry);
      }
    };
    const JournalScan scan = scan_journal(file, keep);
    ++health.files;
    health.torn_bytes += scan.file_bytes - scan.committed_end;
    health.damaged_bytes += scan.damaged_bytes;
    if (scan.has_header && scan.header.job != job) {
      throw Error(fmt::format("{} belongs to another job", path),
                  "start with --restart to set the old journal aside, or choose another output");
    }
    files.push_back({path, scan.header.created_ns, scan.header.nonce});
    for (const auto& [sample, places] : under_way) pieces.insert(pieces.end(), places.begin(), places.end());
  }

  // "First committed" must mean the same in every process: by the journals' time of creation, then by place.
  void order_entries() {
    std::vector<std::uint64_t> order(files.size()), rank(files.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](std::uint64_t a, std::uint64_t b) {
      return std::pair(files[a].created_ns, files[a].path) < std::pair(files[b].created_ns, files[b].path);
    });
    std::vector<JournalFile> sorted;
    for (std::size_t i = 0; i < order.size(); ++i) {
      rank[order[i]] = i;
      sorted.push_back(std::move(files[order[i]]));
    }
    files = std::move(sorted);
    for (std::vector<Entry>* list : {&entries, &pieces}) {
      for (Entry& e : *list) e = e.in_file(rank[e.file()]);
      std::sort(list->begin(), list->end(), by_identity_and_place);
    }
  }

  void drop_duplicates() {
    RecordSource source(files);
    ResultRecord first, again;
    std::size_t kept = 0;
    for (const Entry& entry : entries) {
      if (kept == 0 || entries[kept - 1].identity() != entry.identity()) {
        entries[kept++] = entry;
        continue;
      }
      ++health.duplicates;
      source.read(entries[kept - 1], first);
      source.read(entry, again);
      if (!first.same_answer(again)) ++health.conflicts;
    }
    entries.resize(kept);
    entries.shrink_to_fit();
  }

  // Of what is finished, no piece counts; of the rest, with the few files that they lie in.
  void keep_pieces() {
    const auto finished = [&](const Entry& piece) {
      const auto less = [](const Entry& a, const Entry& b) { return a.identity() < b.identity(); };
      return std::binary_search(entries.begin(), entries.end(), piece, less);
    };
    std::erase_if(pieces, finished);
    auto kept = std::make_shared<Checkpoints::Pieces>();
    std::unordered_map<std::uint64_t, std::uint64_t> numbers;
    for (const Entry& piece : pieces) {
      const auto [at, is_new] = numbers.try_emplace(piece.file(), kept->files.size());
      if (is_new) kept->files.push_back(files[piece.file()]);
      kept->entries.push_back(piece.in_file(at->second));
    }
    pieces = {};
    checkpoints = Checkpoints(std::move(kept));
  }

  std::span<const Entry> of_row(PromptRow row) const {
    const auto less = [](const Entry& entry, PromptRow value) { return entry.row() < value; };
    const auto first = std::lower_bound(entries.begin(), entries.end(), row, less);
    auto last = first;
    while (last != entries.end() && last->row() == row) ++last;
    return {first, last};
  }

  static bool is_complete(std::span<const Entry> samples) {
    return !samples.empty() && samples.size() >= static_cast<std::size_t>(samples[0].samples());
  }

  void count_rows() {
    for (std::size_t i = 0; i < entries.size();) {
      std::size_t end = i + 1;
      while (end < entries.size() && entries[end].row() == entries[i].row()) ++end;
      if (is_complete(std::span(entries).subspan(i, end - i))) ++committed_rows;
      i = end;
    }
  }
};

JournalIndex::JournalIndex(const std::string& directory, std::uint64_t job)
    : impl_(std::make_unique<Impl>()) {
  impl_->superseded = Superseded::load(directory);
  for (const std::string& path : list_journals(directory)) impl_->scan(path, job);
  impl_->health.records = impl_->entries.size();
  impl_->order_entries();
  impl_->drop_duplicates();
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
  return impl_->entries.size();
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
  for (const Entry& entry : impl_->entries) visit(entry.row(), entry.sample(), entry.samples());
}

void JournalIndex::for_each(const std::function<void(const ResultRecord&)>& visit) const {
  RecordSource source(impl_->files);
  ResultRecord record;
  for (const Entry& entry : impl_->entries) {
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
