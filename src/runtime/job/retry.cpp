// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/retry.h"

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/reasons.h"
#include "io/files.h"
#include "io/reopen.h"
#include "io/superseded.h"
#include "runtime/job/session.h"
#include "runtime/job/standing.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

bool to_retry(const io::ResultRecord& record) {
  return record.finish_reason == FinishReason::failed && is_retryable(record.error);
}

json provenance_of(const Job& job) {
  const auto root = read_result_root(job.job.output);
  if (!root) throw BadInput(fmt::format("{} is not the result of a job", job.job.output.string()));
  return json::parse(root->provenance);
}

// A start as the provenance keeps it, into the folder's form: what was left out there stays empty.
RunRecord run_from(json brief) {
  const json none = json::parse(RunRecord().to_json());
  const json calibration = brief.value("calibration", json());
  brief["calibration"] = calibration.is_null() ? std::string() : calibration.dump();
  brief["per_rank"] = json::array();
  for (const auto& [name, value] : none.at("total").items()) {
    if (!brief["total"].contains(name)) brief["total"][name] = value;
  }
  return RunRecord::from_json(brief.dump());
}

}  // namespace

std::uint64_t count_retryable(const Job& job) {
  return io::count_results(job.job.output.string(), to_retry);
}

std::string kernels_of_result(const Job& job) {
  const json provenance = provenance_of(job);
  const json runs = provenance.value("runs", json::array());
  return runs.empty() ? std::string() : runs.back().value("kernel_set", std::string());
}

std::uint64_t reopen(const Job& job) {
  const Session session(job);
  const fs::path marker = session.dir() / kReopening;
  io::write_file_atomically(marker.string(), "made from the result beside it; not complete yet\n");
  session.clear(kReopening);  // what an earlier try left half done
  const json provenance = provenance_of(job);
  const io::Manifest manifest = manifest_in(provenance.dump());
  io::write_manifest(session.dir().string(), manifest);
  io::write_file_atomically((session.dir() / "started").string(), provenance.at("started_unix").dump());
  for (const json& run : provenance.at("runs")) session.write_run(run_from(run));
  const std::uint64_t open =
      io::reopen_result(job.job.output.string(), session.dir().string(), manifest.fingerprint(),
                        [](const io::ResultRecord& record) { return !to_retry(record); });
  fs::remove(marker);
  io::sync_directory(session.dir().string());
  return open;
}

std::uint64_t supersede_retryable(const Job& job) {
  return io::supersede_answers(job.journal_dir().string(), to_retry);
}

}  // namespace nightshift::runtime
