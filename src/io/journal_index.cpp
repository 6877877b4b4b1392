// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include <algorithm>
#include <filesystem>
#include <list>
#include <mutex>
#include <span>

#include "core/check.h"
#include "io/journal.h"
#include "io/journal_format.h"
#include "io/superseded.h"

namespace nightshift::io {
namespace {

constexpr std::size_t kOpenFiles = 64;  // journals kept open while records are read; a job may have thousands
constexpr std::size_t kFirstRead = 4096;  // most records come with one read
constexpr int kOffsetBits = 44;           // 16 TiB per journal, 1 M journals

// 16 bytes: row, sample and samples in one ordered key; journal number and offset.
struct Entry {
  std::uint64_t key;       // row << 28 | sample << 14 | samples
  std::uint64_t location;  // file << 44 | offset

  PromptRow row() const { return key >> 28; }
  std::int32_t sample() const { return static_cast<std::int32_t>(key >> 14 & 0x3fff); }
  std::int32_t samples() const { return static_cast<std::int32_t>(key & 0x3fff); }
  std::uint64_t identity() const { return key >> 14; }
  std::uint64_t file() const { return location >> kOffsetBits; }
  std::uint64_t offset() const { return location & ((std::uint64_t{1} << kOffsetBits) - 1); }
};
static_assert(sizeof(Entry) == 16);

struct JournalFile {
  std::string path;
  std::uint64_t created_ns = 0, nonce = 0;
};

// Reads records at known places, a bounded number of files open at a time.
class RecordSource {
 public:
  explicit RecordSource(const std::vector<JournalFile>& files) : files_(files) {}

  void read(const Entry& entry, ResultRecord& record) {
    const JournalFile& journal = files_[entry.file()];
    const FileHandle& file = open(entry.file());
    bytes_.resize(kFirstRead);
    bytes_.resize(file.read_at(entry.offset(), bytes_));
    RecordHeader header{};
    bool good = bytes_.size() >= sizeof header;
    if (good) std::memcpy(&header, bytes_.data(), sizeof header);
    good = good && checks(header, journal.nonce) && complete(file, entry, header);
    const auto payload = std::span<const char>(bytes_).subspan(good ? sizeof header : bytes_.size());
    if (!good || !payload_checks(header, payload.first(header.length)) ||
        !decode_payload(header, payload.first(header.length), record)) {
      throw Error(fmt::format("{}: the record of row {} at byte {} has changed since it was written",
                              journal.path, entry.row(), entry.offset()),
                  "the storage returns wrong data; start the job again to repeat the rows that are lost");
    }
  }

 private:
  bool complete(const FileHandle& file, const Entry& entry, const RecordHeader& header) {
    const std::size_t have = bytes_.size(), need = sizeof header + header.length;
    if (have >= need) return true;
    if (entry.offset() + need > file.size()) return false;
    bytes_.resize(need);
    return file.read_at(entry.offset() + have, std::span(bytes_).subspan(have)) == need - have;
  }

  const FileHandle& open(std::uint64_t index) {
    auto it =
        std::find_if(open_.begin(), open_.end(), [&](const auto& entry) { return entry.first == index; });
    if (it == open_.end()) {
      if (open_.size() == kOpenFiles) open_.pop_back();
      open_.emplace_front(index, FileHandle(files_[index].path, O_RDONLY));
    } else {
      open_.splice(open_.begin(), open_, it);
    }
    return open_.front().second;
  }

  const std::vector<JournalFile>& files_;
  std::list<std::pair<std::uint64_t, FileHandle>> open_;  // most recently used first
  std::vector<char> bytes_;
};

}  // namespace

struct JournalIndex::Impl {
  std::vector<JournalFile> files;  // in order of creation
  std::vector<Entry> entries;      // ordered by (row, sample)
  JournalHealth health;
  Superseded superseded;
  std::uint64_t committed_rows = 0;

  void scan(const std::string& path, std::uint64_t job) {
    const FileHandle file(path, O_RDONLY);
    const std::uint64_t number = files.size();
    const auto keep = [&](const RecordHeader& h, std::uint64_t offset) {
      if (h.kind != static_cast<std::uint8_t>(RecordKind::result)) return;
      if (superseded.holds(h, offset)) return void(++health.superseded);
      entries.push_back(
          {h.row << 28 | std::uint64_t{h.sample} << 14 | h.samples, number << kOffsetBits | offset});
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
  }

  // "First committed" must mean the same in every process: by the journals' time of creation, then by place.
  void order_files() {
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
    for (Entry& e : entries) e.location = rank[e.file()] << kOffsetBits | e.offset();
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
  impl_->order_files();
  std::sort(impl_->entries.begin(), impl_->entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.identity(), a.location) < std::pair(b.identity(), b.location);
  });
  impl_->drop_duplicates();
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
