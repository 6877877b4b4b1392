// SPDX-License-Identifier: Apache-2.0
#include "io/superseded.h"

#include <filesystem>

#include "io/reopen.h"
#include "io/support.h"

namespace nightshift::io {
namespace {

using test::make_record;
using test::message_of;
using test::Scratch;
using test::slurp;
using test::spill;

constexpr std::uint64_t kJob = 0x77;

ResultRecord failed(PromptRow row, const std::string& error) {
  ResultRecord record;
  record.row = row;
  record.finish_reason = FinishReason::failed;
  record.error = error;
  return record;
}

bool ran_out_of_time(const ResultRecord& record) {
  return record.error.starts_with("timeout");
}

void append(const Scratch& scratch, int rank, const std::vector<ResultRecord>& records) {
  ResultJournal journal(scratch.root(), rank, kJob);
  for (const ResultRecord& record : records) journal.append(record);
  journal.close();
}

TEST(Superseded, RowsAreOpenAgainAndTheNewAnswerCounts) {
  const Scratch scratch;
  append(scratch, 0,
         {make_record(1), failed(2, "timeout: 3 tokens in 1 s"), failed(3, "too_long: 9 > 8 tokens")});
  EXPECT_EQ(supersede_answers(scratch.root(), ran_out_of_time), 1u);
  {
    const JournalIndex open(scratch.root(), kJob);
    EXPECT_TRUE(open.committed(1));
    EXPECT_FALSE(open.committed(2));
    EXPECT_TRUE(open.committed(3));
    EXPECT_EQ(open.health().superseded, 1u);
  }
  append(scratch, 0, {make_record(2)});
  const JournalIndex index(scratch.root(), kJob);
  ASSERT_EQ(index.read(2).size(), 1u);
  EXPECT_TRUE(index.read(2)[0].same_answer(make_record(2)));
  EXPECT_EQ(index.health().duplicates, 0u);
}

TEST(Superseded, ASecondPassOpensWhatFailedAnew) {
  const Scratch scratch;
  for (int pass = 0; pass < 3; ++pass) {
    append(scratch, 0, {failed(5, "timeout: again")});
    EXPECT_EQ(supersede_answers(scratch.root(), ran_out_of_time), 1u);
    EXPECT_EQ(supersede_answers(scratch.root(), ran_out_of_time), 0u) << "each once";
  }
  EXPECT_EQ(JournalIndex(scratch.root(), kJob).health().superseded, 3u);
}

TEST(Superseded, TheSamePlaceInAnotherFileIsAnotherRecord) {
  const Scratch scratch;
  append(scratch, 0, {failed(5, "timeout: x")});
  EXPECT_EQ(supersede_answers(scratch.root(), ran_out_of_time), 1u);
  append(scratch, 1, {failed(5, "timeout: x")});  // equal bytes at an equal offset
  EXPECT_TRUE(JournalIndex(scratch.root(), kJob).committed(5));
}

TEST(Superseded, ADamagedListIsNamedAndNeverGuessedAt) {
  const Scratch scratch;
  append(scratch, 0, {failed(5, "timeout: x"), failed(6, "timeout: y")});
  ASSERT_EQ(supersede_answers(scratch.root(), ran_out_of_time), 2u);
  const std::string list = scratch.path("superseded"), whole = slurp(list);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    spill(list, bytes);
    EXPECT_NE(message_of([&] { Superseded::load(scratch.root()); }).find("damaged"), std::string::npos) << at;
    spill(list, whole.substr(0, at));
    EXPECT_NE(message_of([&] { Superseded::load(scratch.root()); }).find("damaged"), std::string::npos) << at;
  }
}

// Journals -> result -> journals, without what is to be tried again.
TEST(Reopen, AResultGoesBackIntoAJournal) {
  const Scratch scratch;
  constexpr PromptRow kRows = 40;
  const PromptReader prompts(test::write_text_prompts(scratch, kRows), {});
  std::filesystem::create_directories(scratch.path("old"));
  std::filesystem::create_directories(scratch.path("new"));
  {
    ResultJournal journal(scratch.path("old"), 0, kJob);
    for (PromptRow row = 0; row < kRows; ++row) {
      if (row % 4 == 0) {
        journal.append(failed(row, "timeout: x"));
        continue;
      }
      for (std::int32_t sample = 0; sample < 2; ++sample) journal.append(make_record(row, sample, 2));
    }
    journal.close();
  }
  const JournalIndex before(scratch.path("old"), kJob);
  write_results(scratch.path("out.h5"), prompts, before, {.logprobs = true});
  EXPECT_EQ(count_results(scratch.path("out.h5"), ran_out_of_time), kRows / 4);
  const auto keep = [](const ResultRecord& record) { return !ran_out_of_time(record); };
  EXPECT_EQ(reopen_result(scratch.path("out.h5"), scratch.path("new"), kJob, keep), kRows / 4);
  const JournalIndex after(scratch.path("new"), kJob);
  EXPECT_EQ(after.size(), before.size() - kRows / 4);
  for (PromptRow row = 0; row < kRows; ++row) {
    EXPECT_EQ(after.committed(row), row % 4 != 0) << row;
    if (row % 4 == 0) continue;
    const auto was = before.read(row), is = after.read(row);
    ASSERT_EQ(is.size(), 2u);
    for (std::size_t sample = 0; sample < 2; ++sample) {
      EXPECT_EQ(is[sample].tokens, was[sample].tokens);
      EXPECT_EQ(is[sample].samples, 2);
      EXPECT_EQ(is[sample].finish_reason, was[sample].finish_reason);
      EXPECT_EQ(is[sample].finished_s, was[sample].finished_s);
    }
  }
}

}  // namespace
}  // namespace nightshift::io
