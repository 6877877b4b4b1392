// SPDX-License-Identifier: Apache-2.0
#include "io/sorted_entries.h"

#include <algorithm>
#include <queue>

#include "core/check.h"

namespace nightshift::io {
namespace {

constexpr std::size_t kWrittenAtOnce = 1u << 14;  // entries: 256 KiB
constexpr std::size_t kReadAtOnce = 1u << 14;     // of a run, where the runs are few

// Entries begin .. end - 1 of a file, front to back.
class Run {
 public:
  Run(const FileHandle& file, std::uint64_t begin, std::uint64_t end, std::size_t buffer)
      : file_(&file), next_(begin), end_(end), buffer_(buffer) {
    refill();
  }
  bool at_end() const { return at_ == entries_.size(); }
  const Entry& front() const { return entries_[at_]; }
  void pop() {
    if (++at_ == entries_.size()) refill();
  }

 private:
  void refill() {
    entries_.resize(std::min<std::uint64_t>(buffer_, end_ - next_));
    at_ = 0;
    const std::span<char> bytes(reinterpret_cast<char*>(entries_.data()), entries_.size() * sizeof(Entry));
    if (file_->read_at(next_ * sizeof(Entry), bytes) != bytes.size())
      throw Error(fmt::format("{} has become shorter while it was read", file_->path()));
    next_ += entries_.size();
  }

  const FileHandle* file_;
  std::uint64_t next_, end_;
  std::size_t buffer_, at_ = 0;
  std::vector<Entry> entries_;
};

struct Later {
  bool operator()(const Run* a, const Run* b) const { return by_identity_and_place(b->front(), a->front()); }
};

void write_entries(const FileHandle& file, std::uint64_t first, std::span<const Entry> entries) {
  file.write_at(first * sizeof(Entry), {reinterpret_cast<const char*>(entries.data()), entries.size_bytes()});
}

// Appends to a file in blocks.
class Writer {
 public:
  explicit Writer(const FileHandle& file) : file_(file) {}
  void add(const Entry& entry) {
    waiting_.push_back(entry);
    if (waiting_.size() == kWrittenAtOnce) flush();
  }
  void flush() {
    write_entries(file_, written_, waiting_);
    written_ += waiting_.size();
    waiting_.clear();
  }

 private:
  const FileHandle& file_;
  std::uint64_t written_ = 0;
  std::vector<Entry> waiting_;
};

}  // namespace

SortedEntries::SortedEntries(std::string directory, std::size_t in_memory)
    : directory_(std::move(directory)), in_memory_(in_memory) {
  NS_CHECK(in_memory > 0);
}

void SortedEntries::add(const Entry& entry) {
  if (waiting_.size() == in_memory_) end_run();
  // All of it at once: pages count when they are touched, and to grow would take a second copy.
  if (waiting_.empty()) waiting_.reserve(in_memory_);
  waiting_.push_back(entry);
}

void SortedEntries::end_run() {
  if (!runs_.is_open()) runs_ = FileHandle::unnamed(directory_);
  std::sort(waiting_.begin(), waiting_.end(), by_identity_and_place);
  const std::uint64_t first = run_ends_.empty() ? 0 : run_ends_.back();
  write_entries(runs_, first, waiting_);
  run_ends_.push_back(first + waiting_.size());
  waiting_.clear();
}

void SortedEntries::finish(const std::function<bool(const Entry&)>& keep) {
  if (run_ends_.empty()) return keep_in_memory(keep);
  end_run();
  waiting_ = std::vector<Entry>();  // not {}, which would keep the memory
  merge(keep);
  runs_ = {};
}

std::span<const Entry> SortedEntries::entries() const {
  if (!merged_) return waiting_;
  const std::span<const char> bytes = merged_->bytes();
  return {reinterpret_cast<const Entry*>(bytes.data()), bytes.size() / sizeof(Entry)};
}

void SortedEntries::keep_in_memory(const std::function<bool(const Entry&)>& keep) {
  std::sort(waiting_.begin(), waiting_.end(), by_identity_and_place);
  std::size_t kept = 0;
  for (const Entry& entry : waiting_) {
    if (keep(entry)) waiting_[kept++] = entry;
  }
  waiting_.resize(kept);
}

// The runs share the memory that one run had while it grew.
void SortedEntries::merge(const std::function<bool(const Entry&)>& keep) {
  const std::size_t buffer = std::clamp<std::size_t>(in_memory_ / run_ends_.size(), 1, kReadAtOnce);
  runs_.sync_data();  // some file systems say only now that they are full
  std::vector<Run> runs;
  runs.reserve(run_ends_.size());
  for (std::size_t i = 0; i < run_ends_.size(); ++i)
    runs.emplace_back(runs_, i == 0 ? 0 : run_ends_[i - 1], run_ends_[i], buffer);
  std::priority_queue<Run*, std::vector<Run*>, Later> next;
  for (Run& run : runs) next.push(&run);

  const FileHandle file = FileHandle::unnamed(directory_);
  Writer writer(file);
  while (!next.empty()) {
    Run* const run = next.top();
    next.pop();
    if (keep(run->front())) writer.add(run->front());
    run->pop();
    if (!run->at_end()) next.push(run);
  }
  writer.flush();
  file.sync_data();
  merged_.emplace(file);
}

}  // namespace nightshift::io
