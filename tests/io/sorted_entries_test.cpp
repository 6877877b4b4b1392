// SPDX-License-Identifier: Apache-2.0
#include "io/sorted_entries.h"

#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <set>
#include <tuple>

#include "io/superseded.h"
#include "io/support.h"
#include "peak_anonymous.h"

namespace nightshift::io {
namespace {

using test::make_record;
using test::message_of;
using test::Scratch;

constexpr std::uint64_t kJob = 0x77;
constexpr PromptRow kRows = 60;
namespace fs = std::filesystem;

std::set<std::string> names_in(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return names;
}

// A mounted file system of this test's own; `mounted` is false without the right to mount.
struct Mount {
  std::string path;
  bool mounted;
  Mount(const std::string& at, const char* options) : path(at) {
    fs::create_directories(at);
    mounted = ::mount("tmpfs", at.c_str(), "tmpfs", 0, options) == 0;
  }
  bool make_read_only() const {
    return ::mount(nullptr, path.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0;
  }
  ~Mount() {
    if (mounted) ::umount(path.c_str());
  }
};

// $TMPDIR for the duration of a test.
struct TemporaryDirectory {
  std::string before = std::getenv("TMPDIR") != nullptr ? std::getenv("TMPDIR") : "";
  explicit TemporaryDirectory(const std::string& path) { ::setenv("TMPDIR", path.c_str(), 1); }
  ~TemporaryDirectory() { before.empty() ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", before.c_str(), 1); }
};

void write_rows(const std::string& directory, PromptRow rows) {
  ResultJournal journal(directory, 0, kJob);
  for (PromptRow row = 0; row < rows; ++row) journal.append(make_record((row * 37) % rows));
  journal.close();
}

// What ranks leave behind that were killed again and again: rows answered twice or three times, alike or (as
// no job does) not, answers under way that another start has ended or has not, answers set aside.
void write_history(const std::string& directory, std::mt19937_64& random) {
  for (int file = 0; file < 5; ++file) {
    ResultJournal journal(directory, file % 2, kJob);
    for (int i = 0; i < 40; ++i) {
      const PromptRow row = random() % kRows;
      const auto samples = static_cast<std::int32_t>(row % 3 + 1);
      const auto sample = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(samples));
      if (random() % 4 == 0) {
        ProgressRecord piece;
        std::tie(piece.row, piece.sample, piece.samples) = std::tuple(row, sample, samples);
        piece.tokens = {1, 2, static_cast<TokenId>(row)};
        journal.append(piece);
      } else {
        ResultRecord record = make_record(row, sample, samples);
        if (random() % 16 == 0) record.text += " or not";
        journal.append(record);
      }
    }
    journal.close();
    if (file == 2) {
      supersede_answers(directory,
                        [](const ResultRecord& r) { return r.finish_reason == FinishReason::failed; });
    }
  }
}

using Key = std::tuple<PromptRow, std::int32_t, std::int32_t>;

std::vector<Key> keys_of(const JournalIndex& index) {
  std::vector<Key> keys;
  index.for_each_key([&](PromptRow row, std::int32_t sample, std::int32_t samples) {
    keys.emplace_back(row, sample, samples);
  });
  return keys;
}

std::vector<ResultRecord> records_of(const JournalIndex& index) {
  std::vector<ResultRecord> records;
  index.for_each([&](const ResultRecord& record) { records.push_back(record); });
  return records;
}

auto counts_of(const JournalIndex& index) {
  const JournalHealth& h = index.health();
  return std::tuple(index.size(), index.committed_rows(), index.checkpoints().size(), h.files, h.records,
                    h.duplicates, h.conflicts, h.superseded, h.torn_bytes, h.damaged_bytes);
}

void expect_same(const JournalIndex& a, const JournalIndex& b) {
  EXPECT_EQ(counts_of(a), counts_of(b));
  EXPECT_EQ(keys_of(a), keys_of(b));
  const auto ours = records_of(a), theirs = records_of(b);
  EXPECT_TRUE(std::equal(ours.begin(), ours.end(), theirs.begin(), theirs.end(),
                         [](const ResultRecord& x, const ResultRecord& y) { return x.same_answer(y); }));
  EXPECT_EQ(a.checkpoints().encode(), b.checkpoints().encode());
  for (PromptRow row = 0; row <= kRows; ++row) {
    EXPECT_EQ(a.committed(row), b.committed(row)) << row;
    EXPECT_EQ(a.committed(row, 1), b.committed(row, 1)) << row;
    EXPECT_EQ(a.read(row).size(), b.read(row).size()) << row;
  }
}

TEST(SortedEntries, OrderAndChoiceDoNotDependOnTheMemory) {
  const Scratch scratch;
  std::mt19937_64 random(3);
  for (const std::size_t count : {0u, 1u, 6u, 7u, 8u, 14u, 1000u, 50000u}) {
    std::vector<Entry> all(count);
    for (Entry& entry : all) entry = {random() % (count + 1) << 14 | 1, random() % (1u << 30)};
    std::vector<Entry> expected = all;
    std::sort(expected.begin(), expected.end(), by_identity_and_place);
    std::erase_if(expected, [](const Entry& e) { return e.identity() % 3 == 0; });
    for (const std::size_t in_memory : {1u, 7u, 999u, 1000u, 100000u}) {
      if (count / in_memory > 10000) continue;
      SortedEntries sorted(scratch.root(), in_memory);
      for (const Entry& entry : all) sorted.add(entry);
      sorted.finish([](const Entry& e) { return e.identity() % 3 != 0; });
      const std::span<const Entry> found = sorted.entries();
      EXPECT_TRUE(std::equal(
          found.begin(), found.end(), expected.begin(), expected.end(),
          [](const Entry& a, const Entry& b) { return a.key == b.key && a.location == b.location; }))
          << count << " entries, " << in_memory << " in memory";
    }
  }
}

TEST(SortedEntries, OfNothingThatStaysNothingIsLeft) {
  const Scratch scratch;
  SortedEntries sorted(scratch.root(), 2);
  for (std::uint64_t i = 0; i < 9; ++i) sorted.add({i, i});
  sorted.finish([](const Entry&) { return false; });
  EXPECT_TRUE(sorted.entries().empty());
}

TEST(SortedEntries, AnIndexOnDiskSaysWhatOneInMemorySays) {
  std::mt19937_64 random(17);
  std::uint64_t duplicates = 0, conflicts = 0, superseded = 0, pieces = 0;
  for (int trial = 0; trial < 12; ++trial) {
    const Scratch scratch;
    write_history(scratch.root(), random);
    const JournalIndex in_memory(scratch.root(), kJob), on_disk(scratch.root(), kJob, 7);
    expect_same(in_memory, on_disk);
    duplicates += in_memory.health().duplicates;
    conflicts += in_memory.health().conflicts;
    superseded += in_memory.health().superseded;
    pieces += in_memory.checkpoints().size();
  }
  EXPECT_GT(std::min({duplicates, conflicts, superseded, pieces}), 12u) << "else the trials show little";
}

TEST(SortedEntries, TheResultIsTheSameBytes) {
  const Scratch scratch;
  fs::create_directory(scratch.path("journals"));
  write_rows(scratch.path("journals"), 500);
  const PromptReader prompts(test::write_text_prompts(scratch, 500));
  write_results(scratch.path("a.h5"), prompts, JournalIndex(scratch.path("journals"), kJob));
  write_results(scratch.path("b.h5"), prompts, JournalIndex(scratch.path("journals"), kJob, 7));
  EXPECT_TRUE(test::slurp(scratch.path("a.h5")) == test::slurp(scratch.path("b.h5")));
}

TEST(SortedEntries, NothingIsLeftOverEvenAfterAKill) {
  const Scratch scratch;
  write_rows(scratch.root(), 500);
  const std::set<std::string> before = names_in(scratch.root());
  const pid_t child = ::fork();
  if (child == 0) {
    const JournalIndex index(scratch.root(), kJob, 7);
    ::kill(::getpid(), index.size() == 500 ? SIGKILL : SIGTERM);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(names_in(scratch.root()), before);
  const JournalIndex index(scratch.root(), kJob, 7);
  EXPECT_EQ(names_in(scratch.root()), before) << "not even while it is in use";
}

TEST(SortedEntries, AFullDiskIsNamedWithItsRemedy) {
  const Scratch scratch;
  const Mount small(scratch.path("small"), "size=256k");
  if (!small.mounted) GTEST_SKIP() << "mounting needs root";
  SortedEntries sorted(small.path, 1000);
  const std::string message = message_of([&] {
    for (std::uint64_t i = 0; i < 100000; ++i) sorted.add({i << 14 | 1, i});
  });
  EXPECT_NE(message.find("a temporary file in " + small.path), std::string::npos) << message;
  EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
  EXPECT_NE(message.find("free some space"), std::string::npos) << message;
  EXPECT_TRUE(names_in(small.path).empty());
}

TEST(SortedEntries, WhereNothingMayBeWrittenTheTemporaryFolderServes) {
  const Scratch scratch;
  const Mount journals(scratch.path("journals"), "size=8m");
  if (!journals.mounted) GTEST_SKIP() << "mounting needs root";
  write_rows(journals.path, 500);
  ASSERT_TRUE(journals.make_read_only());
  fs::create_directory(scratch.path("tmp"));
  const TemporaryDirectory tmp(scratch.path("tmp"));
  const JournalIndex index(journals.path, kJob, 7);
  EXPECT_EQ(index.size(), 500u);
  EXPECT_TRUE(names_in(scratch.path("tmp")).empty());
  const TemporaryDirectory neither(scratch.path("none"));
  const std::string message = message_of([&] { JournalIndex(journals.path, kJob, 7); });
  EXPECT_NE(message.find(journals.path), std::string::npos) << message;
  EXPECT_NE(message.find("set TMPDIR"), std::string::npos) << message;
}

TEST(SortedEntries, MemoryStaysWithinItsBound) {
  constexpr PromptRow kMany = 1'000'000;
  const Scratch scratch;
  {
    ResultJournal journal(scratch.root(), 0, kJob);
    ResultRecord record;
    for (PromptRow i = 0; i < kMany; ++i) {
      record.row = (i * 7919) % kMany;
      journal.append(record);
    }
    journal.close();
  }
  const nightshift::test::PeakAnonymous memory;
  const JournalIndex index(scratch.root(), kJob, 1u << 14);  // 256 KiB; all of them are 15 MiB
  EXPECT_EQ(index.committed_rows(), kMany);
  if (!nightshift::test::kSanitized) {
    EXPECT_LT(memory.growth(), 8u << 20) << "the scan's window takes 4 MiB";
  }
}

}  // namespace
}  // namespace nightshift::io
