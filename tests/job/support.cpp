// SPDX-License-Identifier: Apache-2.0
#include "job/support.h"

#include <unistd.h>

#include "io/text_column.h"
#include "runtime/job/session.h"
#include "runtime/job/standing.h"

namespace nightshift::runtime::test {

namespace fs = std::filesystem;

void ScratchJob::SetUp() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  dir_ = fs::temp_directory_path() / fmt::format("nightshift-job-{}-{}", info->name(), ::getpid());
  fs::create_directories(dir_);
  job_.job.name = "scratch";
  job_.job.input = fs::path(NIGHTSHIFT_SOURCE_DIR) / "inputs/prompts/quickstart.h5";
  job_.job.output = dir_ / "answers.h5";
  job_.model.path = fs::path(NIGHTSHIFT_SOURCE_DIR) / "inputs/models/tiny-tasks";
  job_.model.max_context = 2048;
}

void ScratchJob::TearDown() {
  fs::remove_all(dir_);
}

io::Manifest ScratchJob::manifest() const {
  return manifest_of(job_, "input-digest", "model-digest");
}

void ScratchJob::start() const {
  io::write_manifest(job_.journal_dir().string(), manifest());
  const Session session(job_);
  session.started_unix();
  session.write_job(job_);
}

std::vector<std::string> ScratchJob::expected() const {
  const io::TextColumn column(job_.job.input.string(), "/expected/text");
  return column.read(0, column.rows());
}

io::ResultRecord ScratchJob::answer(PromptRow row) const {
  io::ResultRecord record;
  record.row = row;
  record.finish_reason = FinishReason::stop;
  record.tokens = {1, 2, 3};
  record.text = expected()[row];
  record.prompt_tokens = 10;
  record.cached_tokens = 4;
  record.started_s = 1.0;
  record.first_token_s = 1.5;
  record.finished_s = 2.5;
  return record;
}

void ScratchJob::commit(PromptRow first, PromptRow last, int rank) const {
  io::ResultJournal journal(job_.journal_dir().string(), rank, manifest().fingerprint());
  const std::vector<std::string> texts = expected();
  io::ResultRecord record = answer(0);
  for (PromptRow row = first; row < last; ++row) {
    record.row = row;
    record.text = texts[row];
    journal.append(record);
  }
  journal.close();
}

void ScratchJob::record_start(int number, double seconds, const std::string& stopped_by) const {
  RunRecord run;
  run.number = number;
  run.seconds = seconds;
  run.stopped_by = stopped_by;
  run.ranks = run.replicas = 2;
  run.threads = 1;
  run.kernel_set = "portable";
  RunCounters rank;
  rank.compute_seconds = 0.5 * seconds;
  rank.host_seconds = 0.25 * seconds;
  rank.model_flops = 1e9;
  rank.hardware_flops = 2e9;
  rank.memory_bytes = 5e8;
  rank.peak_flops = 1e10;
  rank.peak_bandwidth = 1e9;
  rank.kv_blocks = 100;
  rank.kv_blocks_high_water = 25;
  rank.inter_token.add(0.01, 100);
  for (int i = 0; i < run.ranks; ++i) {
    run.per_rank.push_back(rank);
    run.total.add(rank);
  }
  Session(job_).write_run(run);
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

}  // namespace nightshift::runtime::test
