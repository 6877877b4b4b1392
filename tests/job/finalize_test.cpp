// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/finalize.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "job/support.h"
#include "runtime/job/expected.h"
#include "runtime/job/liveness.h"
#include "runtime/job/standing.h"

namespace nightshift::runtime {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::message_of;

constexpr PromptRow kRows = 1000;  // of the quickstart prompts

class FinalizeTest : public test::ScratchJob {};

TEST_F(FinalizeTest, AnIncompleteJournalIsRefusedAndKept) {
  start();
  commit(0, kRows - 1);
  EXPECT_FALSE(look_at_harvest(job_).complete());
  EXPECT_EQ(look_at_harvest(job_).committed_rows, kRows - 1);
  EXPECT_THROW(finalize(job_), Error);
  EXPECT_FALSE(fs::exists(job_.job.output));
  EXPECT_EQ(look_at_harvest(job_).committed_rows, kRows - 1);
}

TEST_F(FinalizeTest, JournalsOfSeveralStartsBecomeOneResult) {
  start();
  commit(500, kRows, 0);
  commit(0, 600, 1);  // 100 rows twice: the same answer
  record_start(1, 3.0, "SIGTERM");
  record_start(2, 1.0, "");
  EXPECT_TRUE(look_at_harvest(job_).complete());
  const Finalized done = finalize(job_);
  EXPECT_EQ(done.result.rows, kRows);
  EXPECT_EQ(done.failed_share, 0.0);
  EXPECT_TRUE(fs::exists(job_.job.output));
  EXPECT_FALSE(fs::exists(job_.journal_dir()));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()), 1)
      << "only the result is left";

  const auto root = read_result_root(job_.job.output);
  ASSERT_TRUE(root);
  const json summary = json::parse(root->summary);
  EXPECT_EQ(summary["answers"], kRows);
  EXPECT_EQ(summary["starts"], 2);
  EXPECT_EQ(summary["tokens"]["output"], 3 * kRows);
  EXPECT_EQ(summary["journal"]["duplicates"], 100);
  EXPECT_EQ(json::parse(root->provenance)["runs"][0]["stopped_by"], "SIGTERM");
  EXPECT_FALSE(json::parse(root->provenance)["runs"][0].contains("per_rank"));
}

TEST_F(FinalizeTest, WhatKilledRunsLeftBesideTheOutputGoes) {
  start();
  fs::path half = job_.job.output, removed = job_.journal_dir();
  half += ".tmp-node1-4711";
  removed += ".done-4711";
  std::ofstream(half) << "half a result";
  fs::create_directories(removed / "some");
  remove_leftovers(job_);
  EXPECT_FALSE(fs::exists(half));
  EXPECT_FALSE(fs::exists(removed));
  EXPECT_TRUE(fs::exists(job_.journal_dir() / "manifest.json"));
}

TEST_F(FinalizeTest, FiguresFollowTheirDefinitions) {
  start();
  commit(0, kRows);
  record_start(1, 3.0, "SIGTERM");
  record_start(2, 1.0, "");
  const json s = json::parse(finalize(job_).report.summary);
  // 4 s on two ranks; each start counts 2 x 1e9 model FLOP, 2 x 5e8 bytes, 2 x 1e10 FLOP/s, 2 x 1e9 bytes/s
  EXPECT_DOUBLE_EQ(s["seconds"], 4.0);
  EXPECT_DOUBLE_EQ(s["throughput"]["output_tokens_per_s"], 750.0);
  EXPECT_DOUBLE_EQ(s["throughput"]["total_tokens_per_s"], 3250.0);
  EXPECT_DOUBLE_EQ(s["throughput"]["answers_per_s"], 250.0);
  EXPECT_DOUBLE_EQ(s["utilization"]["mfu"], 4e9 / 8e10);
  EXPECT_DOUBLE_EQ(s["utilization"]["hfu"], 8e9 / 8e10);
  EXPECT_DOUBLE_EQ(s["utilization"]["mbu"], 2e9 / 8e9);
  EXPECT_DOUBLE_EQ(s["utilization"]["model_share"], 0.5);
  EXPECT_DOUBLE_EQ(s["utilization"]["host_share"], 0.25);
  EXPECT_DOUBLE_EQ(s["engine"]["kv_high_water"], 0.25);
  // answers: scheduled at 1 s, first token at 1.5 s, third and last at 2.5 s
  const json& l = s["latency"];
  EXPECT_DOUBLE_EQ(l["scheduling_delay"]["max"], 1.0);
  EXPECT_DOUBLE_EQ(l["time_to_first_token"]["max"], 1.5);
  EXPECT_DOUBLE_EQ(l["prefill"]["max"], 0.5);
  EXPECT_DOUBLE_EQ(l["time_per_output_token"]["max"], 0.5);
  EXPECT_DOUBLE_EQ(l["end_to_end"]["max"], 2.5);
  EXPECT_DOUBLE_EQ(l["normalised"]["max"], 2.5 / 3);
  EXPECT_EQ(l["inter_token"]["count"], 400);
}

TEST_F(FinalizeTest, FailedRowsAreCountedByReason) {
  start();
  commit(0, kRows - 10);
  {
    io::ResultJournal journal(job_.journal_dir().string(), 1, manifest().fingerprint());
    for (PromptRow row = kRows - 10; row < kRows; ++row) {
      io::ResultRecord record;
      record.row = row;
      record.finish_reason = FinishReason::failed;
      record.error =
          row % 2 == 0 ? "too_long: 9000 > 8192 tokens" : "bad_params: top_k 1.5 is not an integer";
      journal.append(record);
    }
    journal.close();
  }
  const Finalized done = finalize(job_);
  EXPECT_DOUBLE_EQ(done.failed_share, 0.01);
  EXPECT_DOUBLE_EQ(failed_share_of(done.report.summary), 0.01);
  const json summary = json::parse(done.report.summary);
  EXPECT_EQ(summary["failures"], (json{{"bad_params", 5}, {"too_long", 5}}));
  EXPECT_EQ(summary["latency"]["end_to_end"]["count"], kRows - 10);
  const std::string text = report_text(done.report.summary, done.report.provenance);
  EXPECT_NE(text.find("bad_params 5, too_long 5"), std::string::npos) << text;
}

TEST_F(FinalizeTest, ScoresByIdAndKind) {
  start();
  commit(0, 900);
  io::ResultRecord wrong = answer(0);
  {
    io::ResultJournal journal(job_.journal_dir().string(), 1, manifest().fingerprint());
    for (wrong.row = 900; wrong.row < kRows; ++wrong.row) {
      wrong.text = wrong.row % 2 == 0 ? "surely not" : " \n" + answer(wrong.row).text + "\n";
      journal.append(wrong);
    }
    journal.close();
  }
  finalize(job_);
  const Scores scores = score_answers(job_.job.output, job_.job.input);
  EXPECT_EQ(scores.all.total, kRows);
  EXPECT_EQ(scores.all.right, kRows - 50);
  EXPECT_EQ(scores.kinds.size(), 8u);
  EXPECT_EQ(scores.kinds.at("sort").total, 125u);
  EXPECT_THROW(score_answers(job_.job.output, job_.job.output), BadInput);
}

TEST_F(FinalizeTest, AReportOfAJobUnderWaySaysSo) {
  start();
  commit(0, 10);
  record_start(1, 1.0, "");
  const Report report = report_of_journals(job_);
  EXPECT_FALSE(json::parse(report.summary)["complete"].get<bool>());
  EXPECT_NE(report_text(report.summary, report.provenance).find("scratch: not complete"), std::string::npos);
  EXPECT_THROW(report_text("{}", "{}"), Error);
}

class StandingTest : public test::ScratchJob {};

TEST_F(StandingTest, NothingThereBegins) {
  EXPECT_EQ(decide_start(job_, manifest(), false), Start::fresh);
  fs::create_directories(job_.journal_dir());  // a start that died before it wrote anything
  EXPECT_EQ(decide_start(job_, manifest(), false), Start::fresh);
}

TEST_F(StandingTest, AJournalOfTheSameJobIsContinued) {
  start();
  commit(0, 5);
  EXPECT_EQ(decide_start(job_, manifest(), false), Start::resume);
  job_.run.threads = 7;  // geometry may change
  job_.job.name = "renamed";
  EXPECT_EQ(decide_start(job_, manifest(), false), Start::resume);
}

TEST_F(StandingTest, AnotherJobIsRefusedByWhatDiffers) {
  start();
  record_start(1, 1.0, "SIGTERM");
  const auto refusal = [&] { return message_of([&] { decide_start(job_, manifest(), false); }); };
  Job other = job_;
  job_.sampling.temperature = 0.7;
  EXPECT_NE(refusal().find("temperature"), std::string::npos) << refusal();
  EXPECT_NE(refusal().find("--restart"), std::string::npos);
  EXPECT_EQ(decide_start(job_, manifest(), true), Start::fresh);
  job_ = other;
  job_.model.max_context = 1024;
  EXPECT_NE(refusal().find("model.max_context: 2048 -> 1024"), std::string::npos) << refusal();
  job_ = other;
  job_.run.kernels = "avx512_bf16";
  EXPECT_NE(refusal().find("run.kernels: portable -> avx512_bf16"), std::string::npos) << refusal();
  job_ = other;
  const io::Manifest input = manifest_of(job_, "another-input", "model-digest");
  EXPECT_NE(message_of([&] { decide_start(job_, input, false); }).find("another-input"), std::string::npos);
}

TEST_F(StandingTest, JournalsWithoutAManifestAreNotTouched) {
  start();
  commit(0, 5);
  fs::remove(job_.journal_dir() / "manifest.json");
  EXPECT_NE(message_of([&] { decide_start(job_, manifest(), false); }).find("no manifest"),
            std::string::npos);
}

TEST_F(StandingTest, AFinishedResultIsRecognisedAndAForeignFileIsNotOverwritten) {
  start();
  commit(0, kRows);
  finalize(job_);
  EXPECT_EQ(decide_start(job_, manifest(), false), Start::complete);
  job_.sampling.max_tokens = 1;
  EXPECT_NE(message_of([&] { decide_start(job_, manifest(), false); }).find("max_tokens"), std::string::npos);
  std::ofstream(job_.job.output) << "my thesis";
  EXPECT_NE(message_of([&] { decide_start(job_, manifest(), false); }).find("not the result of a job"),
            std::string::npos);
}

TEST_F(StandingTest, SetAsideKeepsEverything) {
  start();
  commit(0, kRows);
  std::ofstream(job_.job.output) << "old";
  const std::vector<fs::path> moved = set_aside(job_);
  ASSERT_EQ(moved.size(), 2u);
  EXPECT_FALSE(fs::exists(job_.job.output));
  EXPECT_FALSE(fs::exists(job_.journal_dir()));
  EXPECT_EQ(fs::file_size(moved[0]), 3u);
  EXPECT_TRUE(fs::exists(moved[1] / "manifest.json"));
  std::ofstream(job_.job.output) << "again";  // within the same second
  EXPECT_NE(set_aside(job_).front(), moved.front());
}

class LivenessTest : public test::ScratchJob {};

TEST_F(LivenessTest, TellsStoppedDeadRunningAndFinishedApart) {
  EXPECT_THROW(look_at_job(job_.job.output), BadInput);
  start();
  commit(0, 300);
  EXPECT_EQ(look_at_job(job_.job.output).state, "dead");
  EXPECT_EQ(look_at_job(job_.job.output).committed_rows, 300u);
  record_start(1, 1.0, "SIGTERM");
  EXPECT_EQ(look_at_job(job_.job.output).state, "stopped");
  {
    const io::JobLock lock(job_.journal_dir().string());
    Status status;
    status.state = "running";
    status.samples_total = kRows;
    status.done = 300;
    status.eta_seconds = 90;
    Session(job_).write_status(status);
    const Liveness running = look_at_job(job_.job.output);
    EXPECT_EQ(running.state, "running");
    EXPECT_NE(to_text(running, job_.job.output).find("300 of 1,000 (30.0 %)"), std::string::npos);
  }
  EXPECT_EQ(look_at_job(job_.job.output).state, "stopped");
  commit(300, kRows, 1);
  finalize(job_);
  EXPECT_EQ(look_at_job(job_.job.output).state, "finished");
  EXPECT_EQ(json::parse(to_json(look_at_job(job_.job.output)))["rows"], kRows);
  EXPECT_THROW(look_at_job(job_.job.input), BadInput);
}

TEST_F(LivenessTest, CountsWhatIsDoneFailedAndLeft) {
  start();
  commit(0, 300);
  {
    io::ResultJournal journal(job_.journal_dir().string(), 1, manifest().fingerprint());
    for (PromptRow row = 300; row < 305; ++row) {
      io::ResultRecord record;
      record.row = row;
      record.finish_reason = FinishReason::failed;
      record.error = "timeout: 3 tokens in 1 s";
      journal.append(record);
    }
    journal.close();
  }
  record_start(1, 1.0, "");
  record_start(2, 1.0, "");
  const Liveness dead = look_at_job(job_.job.output);
  const json found = json::parse(to_json(dead));
  EXPECT_EQ(found["done"], 305);
  EXPECT_EQ(found["failed"], 5);
  EXPECT_EQ(found["left"], kRows - 305);
  EXPECT_EQ(found["restarts"], 1);
  const std::string text = to_text(dead, job_.job.output);
  EXPECT_NE(text.find("305 of 1,000 prompts answered and safe, 695 left, 5 failed, 1 restart\n"),
            std::string::npos)
      << text;
  {
    const io::JobLock lock(job_.journal_dir().string());
    Status status;
    status.state = "running";
    status.samples_total = kRows;
    status.done = 305;
    status.failed = 5;
    status.restarts = 1;
    status.updated_unix = std::time(nullptr) - 300;
    Session(job_).write_status(status);
    const std::string running = to_text(look_at_job(job_.job.output), job_.job.output);
    EXPECT_NE(running.find("5 failed"), std::string::npos) << running;
    EXPECT_NE(running.find("1 restart"), std::string::npos) << running;
    EXPECT_NE(running.find("the ranks last said so 5 min"), std::string::npos) << running;
  }
  // As a host sees it that has the folder under another name and not the input.
  Job elsewhere = job_;
  elsewhere.job.input = dir_ / "not-here.h5";
  Session(job_).write_job(elsewhere);
  const Liveness blind = look_at_job(job_.job.output);
  EXPECT_EQ(blind.committed_rows, 305u);
  EXPECT_EQ(blind.rows, 0u);
  EXPECT_TRUE(json::parse(to_json(blind))["left"].is_null());
}

class PartialTest : public test::ScratchJob {};

TEST_F(PartialTest, WhatIsCommittedIsExportedBesideARunningJob) {
  EXPECT_THROW(export_committed(job_.job.output, dir_ / "part.h5"), BadInput);
  start();
  commit(100, 300);
  const io::JobLock running(job_.journal_dir().string());
  const io::ResultSummary part = export_committed(job_.job.output, dir_ / "part.h5");
  EXPECT_EQ(part.prompts, kRows);
  EXPECT_EQ(part.cancelled, kRows - 200);
  EXPECT_FALSE(fs::exists(job_.job.output));
  io::export_results((dir_ / "part.h5").string(), (dir_ / "part.jsonl").string(),
                     {.model = "m", .answered_only = true});
  std::ifstream lines(dir_ / "part.jsonl");
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(json::parse(line)["id"], "batch_req_100");
  std::size_t count = 1;
  while (std::getline(lines, line)) ++count;
  EXPECT_EQ(count, 200u);
}

TEST_F(LivenessTest, ALockOfADeadProcessIsNoSignOfLife) {
  start();
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  json lock{{"host", host}, {"pid", 2147483646}, {"boot", boot}, {"nonce", "0"}};
  std::ofstream(job_.journal_dir() / "lock") << lock.dump();
  EXPECT_EQ(look_at_job(job_.job.output).state, "dead");
  lock["host"] = "a-node-elsewhere";  // touched just now
  std::ofstream(job_.journal_dir() / "lock") << lock.dump();
  EXPECT_EQ(look_at_job(job_.job.output).state, "running");
  fs::last_write_time(job_.journal_dir() / "lock",
                      fs::file_time_type::clock::now() - std::chrono::minutes(5));
  EXPECT_EQ(look_at_job(job_.job.output).state, "dead");
}

}  // namespace
}  // namespace nightshift::runtime
