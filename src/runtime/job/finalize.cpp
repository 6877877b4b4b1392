// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/finalize.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/inspect.h"
#include "io/manifest.h"
#include "runtime/job/standing.h"
#include "runtime/job/version.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

io::Manifest manifest_at(const Session& session) {
  auto manifest = io::read_manifest(session.dir().string());
  if (!manifest)
    throw Error(fmt::format("{} has no manifest", session.dir().string()), "start the job again");
  return std::move(*manifest);
}

// Everything that the journals of one job say. Opened once, because an index of a large job takes seconds to
// build.
struct Journals {
  Session session;
  io::Manifest manifest;
  io::PromptReader prompts;
  io::JournalIndex index;

  explicit Journals(const Job& job)
      : session(job),
        manifest(manifest_at(session)),
        prompts(session.prompts_file(job).string(), job.sampling),
        index(session.dir().string(), manifest.fingerprint()) {}

  bool complete() const { return index.committed_rows() == prompts.rows(); }
};

// One start for the provenance: geometry, numerics and sums; without the counters of every rank and the
// latency buckets, which grow with the job.
json brief(const RunRecord& run) {
  json out = json::parse(run.to_json());
  out.erase("per_rank");
  json& total = out["total"];
  for (auto it = total.begin(); it != total.end();)
    it = it->is_object() && it->contains("buckets") ? total.erase(it) : std::next(it);
  out["calibration"] = run.calibration.empty() ? json() : json::parse(run.calibration);
  return out;
}

std::string provenance_of(const Job& job, const Journals& j) {
  json runs = json::array();
  for (const RunRecord& run : j.session.read_runs()) runs.push_back(brief(run));
  return json{{"program", "nightshift"},
              {"version", version()},
              {"git_revision", git_revision()},
              {"job", json::parse(job_to_json(job))},
              {"input_path", j.manifest.input_path},
              {"input_digest", j.manifest.input_digest},
              {"model_digest", j.manifest.model_digest},
              {"sampling_digest", j.manifest.sampling_digest},
              {"manifest_version", j.manifest.version},
              {"started_unix", j.session.started_unix()},
              {"runs", runs}}
      .dump();
}

std::string summary_of(const Job& job, const Journals& j, const AnswerTotals& answers) {
  return summary_to_json(job, answers, j.session.read_runs(), j.index.health(), j.complete());
}

io::ResultSummary write_rows(const fs::path& path, const Journals& journals, const AnswerTotals& answers,
                             const Report& report, bool partial) {
  io::ResultOptions options;
  options.partial = partial;
  options.logprobs = answers.has_logprobs;
  options.top_k = answers.top_k;
  options.summary = [&](const io::ResultSummary&) { return report.summary; };
  options.provenance = report.provenance;
  return io::write_results(path.string(), journals.prompts, journals.index, options);
}

// The file under its final name, read once more: the journals are about to go.
void reread(const fs::path& output, const io::ResultSummary& written) {
  const io::Inspection found = io::inspect_file(output.string());
  if (found.format == "results/1" && found.rows == written.rows && found.lengths &&
      found.lengths->total == written.output_tokens) {
    return;
  }
  throw Error(fmt::format("{} does not read back as it was written ({} of {} rows)", output.string(),
                          found.rows, written.rows),
              "the storage is not to be trusted; the journals are still there, run the job again to rebuild "
              "the result");
}

// Renamed first, so that a crash never leaves a half-removed journal that looks like one to resume.
void remove_journals(const fs::path& dir) {
  fs::path trash = dir;
  trash += fmt::format(".done-{}", ::getpid());
  fs::rename(dir, trash);
  // The result stands. What cannot be removed (NFS keeps the lock that is still open) goes with the next
  // start.
  std::error_code ignored;
  fs::remove_all(trash, ignored);
}

}  // namespace

void remove_leftovers(const Job& job) {
  io::remove_leftovers(job.job.output.string());
  const std::string prefix = job.journal_dir().filename().string() + ".done-";
  for (const fs::directory_entry& entry : fs::directory_iterator(job.journal_dir().parent_path())) {
    std::error_code ignored;
    if (entry.path().filename().string().starts_with(prefix)) fs::remove_all(entry.path(), ignored);
  }
}

Harvest look_at_harvest(const Job& job) {
  const Journals journals(job);
  return {journals.prompts.rows(), journals.index.committed_rows()};
}

Report report_of_journals(const Job& job) {
  const Journals journals(job);
  return {summary_of(job, journals, total_answers(journals.index)), provenance_of(job, journals)};
}

Finalized finalize(const Job& job) {
  Finalized out;
  {
    const Journals journals(job);
    const AnswerTotals answers = total_answers(journals.index);
    out.failed_share = answers.failed_share();
    out.report = {summary_of(job, journals, answers), provenance_of(job, journals)};
    out.result = write_rows(job.job.output, journals, answers, out.report, false);
  }
  reread(job.job.output, out.result);
  remove_journals(job.journal_dir());
  return out;
}

io::ResultSummary export_committed(const fs::path& output, const fs::path& to) {
  fs::path dir = output;
  dir += ".journal";
  if (!fs::exists(dir / "job.json")) {
    throw BadInput(fmt::format("{} holds no journals", dir.string()),
                   "name the output of a job that has been started");
  }
  Job job = Session(dir).read_job();
  job.job.output = output;  // the folder may be seen under another name here than where the job runs
  const Journals journals(job);
  const AnswerTotals answers = total_answers(journals.index);
  const Report report{summary_of(job, journals, answers), provenance_of(job, journals)};
  return write_rows(to, journals, answers, report, true);
}

}  // namespace nightshift::runtime
