// SPDX-License-Identifier: Apache-2.0
#include "io/results.h"

#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "io/hdf5.h"
#include "io/support.h"
#include "io/text_checks.h"
#include "peak_anonymous.h"

namespace nightshift::io {
namespace {

using test::make_record;
using test::message_of;
using test::Scratch;

constexpr std::uint64_t kJob = 0x77;

struct Job {
  Scratch scratch;
  std::string prompts, journals = scratch.path("answers.h5.journal"), output = scratch.path("answers.h5");

  explicit Job(std::uint64_t rows, bool text_ids = false)
      : prompts(test::write_text_prompts(scratch, rows, text_ids)) {
    std::filesystem::create_directory(journals);
  }
  ResultSummary write(const ResultOptions& options = {}) const {
    return write_results(output, PromptReader(prompts), JournalIndex(journals, kJob), options);
  }
};

// Rows in a shuffled order over three journals, as several ranks leave them.
void fill(const Job& job, PromptRow rows, std::int32_t samples = 1) {
  std::vector<std::unique_ptr<ResultJournal>> journals;
  for (int rank = 0; rank < 3; ++rank)
    journals.push_back(std::make_unique<ResultJournal>(job.journals, rank, kJob));
  for (PromptRow i = 0; i < rows; ++i) {
    const PromptRow row = (i * 7919) % rows;
    for (std::int32_t sample = samples - 1; sample >= 0; --sample) {
      journals[(row + static_cast<PromptRow>(sample)) % 3]->append(make_record(row, sample, samples));
    }
  }
  for (auto& journal : journals) journal->close();
}

template <class T>
std::vector<T> column(const h5::File& file, const std::string& name) {
  const h5::Dataset data = file.dataset("/results/" + name);
  const std::uint64_t width = data.info().shape.size() > 1 ? data.info().shape[1] : 1;
  std::vector<T> values(data.rows() * width);
  data.read(0, data.rows(), values.data());
  return values;
}

std::vector<std::string> texts(const h5::File& file, const std::string& name) {
  const h5::Dataset data = file.dataset("/results/" + name);
  return data.read_strings(0, data.rows());
}

TEST(Results, RowsComeInInputOrderWithAllColumns) {
  const Job job(1009, true);
  fill(job, 1009);
  const ResultSummary summary = job.write({.logprobs = true, .top_k = 2, .provenance = R"({"a":1})"});
  EXPECT_EQ(summary.rows, 1009u);
  EXPECT_EQ(summary.failed, 201u);
  EXPECT_EQ(summary.failures.at("too_long"), 201u);
  const h5::File file = h5::File::open(job.output);
  EXPECT_EQ(file.attribute("/", "nightshift_format"), "results/1");
  EXPECT_EQ(file.attribute("/", "provenance"), R"({"a":1})");
  const auto tokens = column<std::int32_t>(file, "tokens");
  const auto offsets = column<std::uint64_t>(file, "offsets");
  const auto logprobs = column<float>(file, "logprobs"), top_logprobs = column<float>(file, "top_logprobs");
  const auto top_tokens = column<std::int32_t>(file, "top_tokens");
  const auto reasons = column<std::uint8_t>(file, "finish_reason");
  const auto finished = column<double>(file, "finished_s");
  const auto output_tokens = column<std::int32_t>(file, "output_tokens");
  const auto ids = texts(file, "id"), answers = texts(file, "text"), errors = texts(file, "error");
  ASSERT_EQ(offsets.size(), 1010u);
  EXPECT_EQ(summary.output_tokens, tokens.size());
  for (PromptRow row = 0; row < 1009; ++row) {
    const ResultRecord r = make_record(row);
    EXPECT_EQ(ids[row], fmt::format("id-{}", row));
    EXPECT_EQ(answers[row], r.text);
    EXPECT_EQ(errors[row], r.error);
    EXPECT_EQ(reasons[row], static_cast<std::uint8_t>(r.finish_reason));
    EXPECT_EQ(finished[row], r.finished_s);
    EXPECT_EQ(output_tokens[row], static_cast<std::int32_t>(r.tokens.size()));
    ASSERT_EQ(offsets[row + 1] - offsets[row], r.tokens.size());
    for (std::size_t i = 0; i < r.tokens.size(); ++i) {
      const std::size_t at = offsets[row] + i;
      EXPECT_EQ(tokens[at], r.tokens[i]);
      EXPECT_EQ(logprobs[at], r.logprobs[i]);
      for (std::size_t k = 0; k < 2; ++k) {
        const bool given = k < static_cast<std::size_t>(r.top_k);
        const TokenLogprob top = given ? r.top[i * static_cast<std::size_t>(r.top_k) + k] : TokenLogprob{};
        EXPECT_EQ(top_tokens[2 * at + k], top.token);
        EXPECT_EQ(std::isnan(top_logprobs[2 * at + k]), !given);
        if (given) {
          EXPECT_EQ(top_logprobs[2 * at + k], top.logprob);
        }
      }
    }
  }
}

TEST(Results, SamplesOfAPromptStandTogether) {
  const Job job(50);
  fill(job, 50, 3);
  EXPECT_EQ(job.write().rows, 150u);
  const h5::File file = h5::File::open(job.output);
  const auto rows = column<std::uint64_t>(file, "row");
  const auto samples = column<std::int32_t>(file, "sample");
  const auto ids = column<std::int64_t>(file, "id");
  for (std::size_t i = 0; i < 150; ++i) {
    EXPECT_EQ(rows[i], i / 3);
    EXPECT_EQ(samples[i], static_cast<std::int32_t>(i % 3));
    EXPECT_EQ(ids[i], static_cast<std::int64_t>(i / 3));
  }
}

TEST(Results, TheSameAnswersGiveTheSameBytes) {
  const Job a(300), b(300);
  fill(a, 300);
  ResultJournal one(b.journals, 0, kJob);  // other files, other order
  for (PromptRow row = 0; row < 300; ++row) one.append(make_record(row));
  one.close();
  a.write();
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 likes to note the time, in seconds
  b.write();
  EXPECT_TRUE(test::slurp(a.output) == test::slurp(b.output));  // not EQ: it would print both files
}

TEST(Results, MissingRowsAreRefusedUnlessPartial) {
  const Job job(10);
  {
    ResultJournal journal(job.journals, 0, kJob);
    for (const PromptRow row : {0, 1, 3, 8}) journal.append(make_record(row));
    journal.append(make_record(5, 1, 3));  // one sample of three
    journal.close();
  }
  EXPECT_NE(message_of([&] { job.write(); }).find("4 of 10 rows; row 2 is the first"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(job.output));
  const ResultSummary summary = job.write({.partial = true});
  EXPECT_EQ(summary.rows, 12u);
  EXPECT_EQ(summary.cancelled, 7u);
  const h5::File file = h5::File::open(job.output);
  EXPECT_EQ(column<std::uint64_t>(file, "row"),
            (std::vector<std::uint64_t>{0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9}));
  EXPECT_EQ(column<std::int32_t>(file, "sample"),
            (std::vector<std::int32_t>{0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0}));
  const auto reasons = column<std::uint8_t>(file, "finish_reason");
  EXPECT_EQ(reasons[2], static_cast<std::uint8_t>(FinishReason::cancelled));
  EXPECT_EQ(reasons[6], static_cast<std::uint8_t>(make_record(5, 1).finish_reason));
  EXPECT_EQ(reasons[7], static_cast<std::uint8_t>(FinishReason::cancelled));
}

TEST(Results, AnEmptyInputGivesAnEmptyResult) {
  const Job job(0);
  EXPECT_EQ(job.write({.logprobs = true, .top_k = 3}).rows, 0u);
  EXPECT_EQ(h5::File::open(job.output).dataset("/results/offsets").rows(), 1u);
}

TEST(Results, WhatHdf5StringsCannotHoldIsReplaced) {
  const Job job(1);
  ResultRecord record = make_record(0);
  record.text = std::string("a\0b\xff", 4);
  {
    ResultJournal journal(job.journals, 0, kJob);
    journal.append(record);
    journal.close();
  }
  job.write();
  EXPECT_EQ(texts(h5::File::open(job.output), "text")[0], storable_text(record.text));
}

TEST(Results, CompressionChangesSizeOnly) {
  const Job job(2000);
  fill(job, 2000);
  const std::uint64_t plain = job.write().bytes;
  const auto tokens = column<std::int32_t>(h5::File::open(job.output), "tokens");
  const std::uint64_t packed = job.write({.deflate = 4}).bytes;
  EXPECT_LT(packed, plain);
  EXPECT_EQ(column<std::int32_t>(h5::File::open(job.output), "tokens"), tokens);
}

TEST(Results, ARecordThatWentBadIsFoundBeforeItIsPublished) {
  const Job job(20);
  fill(job, 20);
  const PromptReader prompts(job.prompts);
  const JournalIndex index(job.journals, kJob);
  for (const auto& entry : std::filesystem::directory_iterator(job.journals)) {
    std::string content = test::slurp(entry.path());
    content[content.size() - 3] ^= 1;
    test::spill(entry.path(), content);
  }
  EXPECT_NE(
      message_of([&] { write_results(job.output, prompts, index); }).find("has changed since it was written"),
      std::string::npos);
  for (const auto& entry : std::filesystem::directory_iterator(job.scratch.root())) {
    EXPECT_EQ(entry.path().string().find("answers.h5.tmp"), std::string::npos) << entry.path();
  }
}

TEST(Results, SmallFilesHaveSmallChunksAndLongRowsDoNot) {
  const auto chunk_of = [](const Job& job, const char* name) {
    return h5::File::open(job.output).dataset(std::string("/results/") + name).info().chunk.at(0);
  };
  const Job small(10), long_rows(20);
  fill(small, 10);
  EXPECT_LT(small.write().bytes, 100u << 10);
  EXPECT_EQ(chunk_of(small, "prompt_tokens"), 10u);
  {
    ResultJournal journal(long_rows.journals, 0, kJob);
    for (PromptRow row = 0; row < 20; ++row) {
      ResultRecord record = make_record(0);
      record.row = row;
      record.text.assign(1u << 20, 'x');  // written in blocks of some eight rows
      journal.append(record);
    }
    journal.close();
  }
  long_rows.write();
  EXPECT_EQ(chunk_of(long_rows, "prompt_tokens"), 1u << 18);
}

TEST(Results, LeftoversOfKilledRunsAreRemoved) {
  const Job job(1);
  for (const char* name :
       {"answers.h5.tmp-host-12", "answers.h5.tmp-other-7", "answers.h5", "better.h5.tmp-host-12"}) {
    test::spill(job.scratch.path(name), "x");
  }
  EXPECT_EQ(remove_leftovers(job.output), 2u);
  EXPECT_TRUE(std::filesystem::exists(job.output));
  EXPECT_TRUE(std::filesystem::exists(job.scratch.path("better.h5.tmp-host-12")));
}

TEST(Results, AFullDiskLeavesTheOldResultAlone) {
  const Job job(20000);
  fill(job, 20000);
  const std::string mount = job.scratch.path("small");
  std::filesystem::create_directory(mount);
  if (::mount("tmpfs", mount.c_str(), "tmpfs", 0, "size=4m") != 0) GTEST_SKIP() << "mounting needs root";
  test::spill(mount + "/answers.h5", "old");
  const std::string message = message_of([&] {
    write_results(mount + "/answers.h5", PromptReader(job.prompts), JournalIndex(job.journals, kJob));
  });
  EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
  EXPECT_EQ(test::slurp(mount + "/answers.h5"), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(mount), std::filesystem::directory_iterator()),
            1);
  // HDF5 keeps a file that it could not close; the process must still end with the code that it chose.
  const auto write_and_leave = [&] {
    try {
      write_results(mount + "/answers.h5", PromptReader(job.prompts), JournalIndex(job.journals, kJob));
    } catch (const Error&) {
      std::exit(75);
    }
  };
  EXPECT_EXIT(write_and_leave(), testing::ExitedWithCode(75), "");
  ::umount(mount.c_str());
}

TEST(ResultsSlow, AMillionRowsInConstantMemory) {
  constexpr PromptRow kRows = 1'000'000;
  const Job job(kRows);
  {
    ResultJournal journal(job.journals, 0, kJob);
    for (PromptRow i = 0; i < kRows; ++i) journal.append(make_record((i * 7919) % kRows));
    journal.close();
  }
  test::reset_peak_rss();
  const std::size_t before = test::peak_rss_bytes();
  const auto start = std::chrono::steady_clock::now();
  const JournalIndex index(job.journals, kJob);
  const std::chrono::duration<double> indexed = std::chrono::steady_clock::now() - start;
  const std::size_t index_bytes = test::peak_rss_bytes() - before;
  const ResultSummary summary = write_results(job.output, PromptReader(job.prompts), index);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  const std::size_t all_bytes = test::peak_rss_bytes() - before;
  EXPECT_EQ(summary.rows, kRows);
  std::printf(
      "results: %.1f s for 1 M rows, %.2f GB (index %.1f s, %.0f MiB), %.0f rows/s, %.0f MiB more in all\n",
      spent.count(), static_cast<double>(summary.bytes) / 1e9, indexed.count(),
      static_cast<double>(index_bytes) / 1048576.0, kRows / spent.count(),
      static_cast<double>(all_bytes) / 1048576.0);
  EXPECT_LT(spent.count(), 60.0);
  EXPECT_LT(all_bytes, 256u << 20);
}

// The exit code of `work` in a process of its own, whose memory starts small.
int in_own_process(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

TEST(ResultsSlow, MemoryHasABoundThatRowsDoNotMove) {
  constexpr PromptRow kRows = 6'000'000;  // in memory, their entries alone would take 92 MiB
  constexpr std::uint64_t kBound = 80u << 20;
  const Scratch scratch;
  const std::string prompts = scratch.path("prompts.h5");
  const auto make = [&] {
    test::write_text_prompts(scratch, kRows);
    ResultJournal journal(scratch.root(), 0, kJob);
    ResultRecord record;
    record.finish_reason = FinishReason::stop;
    record.tokens.assign(4, 17);
    record.text = "a short answer";
    for (PromptRow i = 0; i < kRows; ++i) {
      record.row = (i * 7919) % kRows;
      journal.append(record);
    }
    journal.close();
    return 0;
  };
  ASSERT_EQ(in_own_process(make), 0);
  const auto finalize = [&] {
    const nightshift::test::PeakAnonymous memory;
    write_results(scratch.path("out.h5"), PromptReader(prompts), JournalIndex(scratch.root(), kJob));
    std::printf("results: %.0f MiB for %.0f M rows\n", static_cast<double>(memory.bytes()) / 1048576.0,
                kRows / 1e6);
    std::fflush(stdout);
    return memory.bytes() < kBound ? 0 : 1;
  };
  EXPECT_EQ(in_own_process(finalize), 0);
}

}  // namespace
}  // namespace nightshift::io
