// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include "io/journal_format.h"
#include "io/support.h"
#include "peak_anonymous.h"

namespace nightshift::io {
namespace {

using test::make_record;
using test::Scratch;
using test::slurp;
using test::spill;

constexpr std::uint64_t kJob = 0x1234;

void expect_same(const ResultRecord& a, const ResultRecord& b) {
  EXPECT_TRUE(a.same_answer(b)) << a.row << " " << a.sample;
  EXPECT_EQ(a.cached_tokens, b.cached_tokens);
  EXPECT_EQ(a.started_s, b.started_s);
  EXPECT_EQ(a.first_token_s, b.first_token_s);
  EXPECT_EQ(a.finished_s, b.finished_s);
}

double thread_cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// One closed journal with rows 0 .. rows - 1; returns its path.
std::string write_journal(const std::string& directory, PromptRow rows) {
  ResultJournal journal(directory, 0, kJob);
  for (PromptRow row = 0; row < rows; ++row) journal.append(make_record(row));
  journal.close();
  return journal.path();
}

TEST(Journal, GivesBackWhatWasAppended) {
  const Scratch scratch;
  ResultJournal a(scratch.root(), 0, kJob), b(scratch.root(), 1, kJob);
  for (PromptRow row = 0; row < 500; ++row) {
    for (std::int32_t sample = 0; sample < 3; ++sample)
      (row % 2 == 0 ? a : b).append(make_record(row, sample, 3));
  }
  a.flush();
  EXPECT_EQ(a.durable(), a.appended());
  a.close();
  b.close();
  b.close();  // again is fine
  const JournalIndex index(scratch.root(), kJob);
  EXPECT_EQ(index.size(), 1500u);
  EXPECT_EQ(index.committed_rows(), 500u);
  EXPECT_EQ(index.health().files, 2u);
  EXPECT_EQ(index.health().torn_bytes + index.health().damaged_bytes, 0u);
  PromptRow row = 0;
  std::int32_t sample = 0;
  index.for_each([&](const ResultRecord& record) {
    expect_same(record, make_record(row, sample, 3));
    if (++sample == 3) ++row, sample = 0;
  });
  EXPECT_EQ(row, 500u);
  EXPECT_EQ(index.read(77).size(), 3u);
  EXPECT_TRUE(index.read(500).empty());
}

TEST(Journal, ARowIsCommittedWhenAllItsSamplesAre) {
  const Scratch scratch;
  ResultJournal journal(scratch.root(), 0, kJob);
  journal.append(make_record(7, 0, 2));
  journal.append(make_record(8, 0, 1));
  journal.close();
  const JournalIndex index(scratch.root(), kJob);
  EXPECT_FALSE(index.committed(7));
  EXPECT_TRUE(index.committed(7, 0));
  EXPECT_FALSE(index.committed(7, 1));
  EXPECT_TRUE(index.committed(8));
  EXPECT_FALSE(index.committed(9));
  EXPECT_EQ(index.committed_rows(), 1u);
}

TEST(Journal, TheFirstCommittedDuplicateCounts) {
  const Scratch scratch;
  ResultRecord first = make_record(1), again = make_record(1), different = make_record(1);
  again.finished_s = 99.0;  // another time is the same answer
  different.text = "something else";
  for (const ResultRecord& record : {first, again, different}) {
    ResultJournal journal(scratch.root(), 0, kJob);
    journal.append(record);
    journal.close();
  }
  const JournalIndex index(scratch.root(), kJob);
  EXPECT_EQ(index.size(), 1u);
  EXPECT_EQ(index.health().records, 3u);
  EXPECT_EQ(index.health().duplicates, 2u);
  EXPECT_EQ(index.health().conflicts, 1u);
  expect_same(index.read(1).at(0), first);
}

TEST(Journal, CommitsByItselfWithinTheSetTime) {
  const Scratch scratch;
  ResultJournal journal(scratch.root(), 0, kJob, {.commit_seconds = 0.05});
  journal.append(make_record(1));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (journal.durable() == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(journal.durable(), 1u);
  EXPECT_EQ(JournalIndex(scratch.root(), kJob).size(), 1u);
}

TEST(Journal, CutAtAnyByteLosesOnlyTheTornRecord) {
  const Scratch scratch;
  const std::string path = write_journal(scratch.root(), 4);  // row 3 is a long one: 40 + ~400 bytes
  const std::string whole = slurp(path);
  std::vector<std::uint64_t> starts;
  scan_journal(FileHandle(path, O_RDONLY),
               [&](const RecordHeader&, std::uint64_t at) { starts.push_back(at); });
  ASSERT_EQ(starts.size(), 4u);
  for (std::uint64_t cut = starts[3]; cut < whole.size(); ++cut) {
    spill(path, whole.substr(0, cut));
    const JournalIndex index(scratch.root(), kJob);
    ASSERT_EQ(index.size(), 3u) << cut;
    ASSERT_EQ(index.health().torn_bytes, cut - starts[3]);
    ASSERT_EQ(cut_torn_tails(scratch.root()), cut - starts[3]);
    ASSERT_EQ(std::filesystem::file_size(path), starts[3]);
  }
  for (std::uint64_t cut = 0; cut < starts[0]; ++cut) {  // not even a header
    spill(path, whole.substr(0, cut));
    ASSERT_EQ(JournalIndex(scratch.root(), kJob).size(), 0u);
  }
}

TEST(Journal, ADamagedHeaderCostsTheRowsButNotTheBytes) {
  const Scratch scratch;
  const std::string path = write_journal(scratch.root(), 4);
  std::string damaged = slurp(path);
  damaged[20] = static_cast<char>(damaged[20] ^ 1);
  spill(path, damaged);
  EXPECT_EQ(cut_torn_tails(scratch.root()), 0u);
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ(slurp(path + ".damaged"), damaged);
  EXPECT_EQ(JournalIndex(scratch.root(), kJob).size(), 0u);
}

TEST(Journal, AnyFlippedBitLosesOneRecordAndNeverGivesAWrongOne) {
  const Scratch scratch;
  const std::string path = write_journal(scratch.root(), 8);
  const std::string whole = slurp(path);
  std::mt19937_64 random(5);
  for (int trial = 0; trial < 3000; ++trial) {
    const std::size_t at = sizeof(FileHeader) + random() % (whole.size() - sizeof(FileHeader));
    std::string broken = whole;
    broken[at] = static_cast<char>(broken[at] ^ (1 << random() % 8));
    spill(path, broken);
    const JournalIndex index(scratch.root(), kJob);
    ASSERT_EQ(index.size(), 7u) << at;
    ASSERT_GT(index.health().damaged_bytes + index.health().torn_bytes, 0u);
    index.for_each([](const ResultRecord& record) { expect_same(record, make_record(record.row)); });
  }
}

TEST(Journal, AbsurdLengthsAllocateNothing) {
  const Scratch scratch;
  const std::string path = write_journal(scratch.root(), 3);
  std::string content = slurp(path);
  test::reset_peak_rss();
  const std::size_t before = test::peak_rss_bytes();
  content.replace(sizeof(FileHeader) + 4, 4, "\xff\xff\xff\x7f", 4);  // length of the first record
  std::string marks;
  for (int i = 0; i < (4 << 20); ++i) marks += "NSR";  // a place that looks like a record at every third byte
  spill(path, content + marks);
  const JournalIndex index(scratch.root(), kJob);
  EXPECT_EQ(index.size(), 2u);
  if (!nightshift::test::kSanitized) {
    EXPECT_LT(test::peak_rss_bytes() - before, 100u << 20);
  }
}

TEST(Journal, PayloadLengthsAreNotTrustedEither) {
  std::vector<char> bytes;
  encode_record(make_record(3), 1, bytes);
  RecordHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const std::vector<char> payload(bytes.begin() + sizeof header, bytes.end());
  for (std::size_t field = 36; field < 56; field += 4) {  // the five sizes
    std::vector<char> broken = payload;
    const std::uint32_t bomb = 0xfffffff0;
    std::memcpy(broken.data() + field, &bomb, sizeof bomb);
    ResultRecord record;
    EXPECT_FALSE(decode_payload(header, broken, record)) << field;
    EXPECT_LT(record.tokens.capacity() + record.text.capacity(), 1u << 20);
  }
}

TEST(Journal, AnotherJobsJournalIsRefused) {
  const Scratch scratch;
  write_journal(scratch.root(), 1);
  EXPECT_NE(test::message_of([&] { JournalIndex(scratch.root(), kJob + 1); }).find("belongs to another job"),
            std::string::npos);
}

TEST(Journal, NonsenseIsRefusedAtTheDoor) {
  const Scratch scratch;
  ResultJournal journal(scratch.root(), 0, kJob);
  ResultRecord record = make_record(1);
  record.sample = 1;
  EXPECT_THROW(journal.append(record), Error);
  record = make_record(1);
  record.row = kMaxRows;
  EXPECT_THROW(journal.append(record), Error);
  record = make_record(1);
  record.logprobs.resize(record.tokens.size() + 1);
  EXPECT_THROW(journal.append(record), Error);
  journal.append(make_record(2));
  journal.close();
  EXPECT_EQ(JournalIndex(scratch.root(), kJob).size(), 1u);
}

// A child appends and reports what is durable through a pipe; it is killed at a random moment.
TEST(Journal, KilledWhileAppendingLosesNothingAcknowledged) {
  std::mt19937 random(11);
  std::uint64_t acknowledged_total = 0;
  for (int trial = 0; trial < 50; ++trial) {
    const Scratch scratch;
    int channel[2];
    ASSERT_EQ(::pipe(channel), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ResultJournal journal(scratch.root(), 0, kJob, {.commit_seconds = 0.001, .commit_bytes = 16u << 10});
      for (PromptRow row = 0;; ++row) {
        journal.append(make_record(row));
        const std::uint64_t durable = journal.durable();
        if (::write(channel[1], &durable, sizeof durable) != sizeof durable) ::_exit(1);
      }
    }
    ::close(channel[1]);
    std::uint64_t durable = 0, last = 0;
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(2000 + random() % 40000);
    while (std::chrono::steady_clock::now() < end && ::read(channel[0], &last, sizeof last) == sizeof last)
      durable = last;
    ::kill(child, SIGKILL);
    while (::read(channel[0], &last, sizeof last) == sizeof last) durable = last;  // said before it died
    ::waitpid(child, nullptr, 0);
    ::close(channel[0]);
    acknowledged_total += durable;
    const JournalIndex index(scratch.root(), kJob);
    ASSERT_GE(index.size(), durable);
    EXPECT_EQ(index.health().damaged_bytes, 0u);
    PromptRow expected = 0;
    index.for_each([&](const ResultRecord& record) { expect_same(record, make_record(expected++)); });
  }
  EXPECT_GT(acknowledged_total, 1000u);
}

TEST(Journal, AFullDiskStopsTheNextAppendAndKeepsWhatIsCommitted) {
  const Scratch scratch;
  const std::string mount = scratch.path("small");
  std::filesystem::create_directory(mount);
  if (::mount("tmpfs", mount.c_str(), "tmpfs", 0, "size=1m") != 0) GTEST_SKIP() << "mounting needs root";
  std::uint64_t durable = 0;
  std::string message;
  {
    ResultJournal journal(mount, 0, kJob, {.commit_seconds = 0.0, .commit_bytes = 1});
    message = test::message_of([&] {
      for (PromptRow row = 0; row < 100000; ++row) {
        journal.append(make_record(row));
        if (row % 50 == 0) journal.flush();
      }
    });
    durable = journal.durable();
    EXPECT_THROW(journal.append(make_record(1)), Error);
    EXPECT_THROW(journal.flush(), Error);
    EXPECT_THROW(journal.close(), Error);
  }
  EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
  EXPECT_NE(message.find("finished work is kept"), std::string::npos) << message;
  {
    const JournalIndex index(mount, kJob);
    EXPECT_EQ(index.size(), durable);
    EXPECT_GT(durable, 100u);
    index.for_each([](const ResultRecord& record) { expect_same(record, make_record(record.row)); });
  }
  ::umount(mount.c_str());
}

TEST(Journal, AppendingIsCheap) {
  const Scratch scratch;
  ResultJournal journal(scratch.root(), 0, kJob);
  std::vector<ResultRecord> records;
  for (PromptRow row = 0; row < 1000; ++row) records.push_back(make_record(row));
  constexpr int kRounds = 100;
  const double cpu_start = thread_cpu_seconds();
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < kRounds; ++round) {
    for (ResultRecord& record : records) {
      record.row = static_cast<PromptRow>(round) * 1000 + record.row % 1000;
      journal.append(record);
    }
  }
  const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
  const double cpu = (thread_cpu_seconds() - cpu_start) * 1e9 / (kRounds * 1000.0);
  journal.close();
  const double each = spent.count() / (kRounds * 1000.0);
  std::printf("journal: append %.0f ns/record (%.0f ns of the thread's own time), %.0f bytes\n", each, cpu,
              static_cast<double>(std::filesystem::file_size(journal.path())) / (kRounds * 1000.0));
  EXPECT_LT(cpu, 50e3);
  EXPECT_EQ(JournalIndex(scratch.root(), kJob).committed_rows(), 100000u);
}

}  // namespace
}  // namespace nightshift::io
