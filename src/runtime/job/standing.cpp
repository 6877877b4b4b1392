// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/standing.h"

#include <ctime>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/params.h"
#include "io/inspect.h"
#include "runtime/job/retry.h"
#include "runtime/job/session.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kWaysOut =
    "pass --restart to begin anew (what is there is kept aside), name another job.output, or undo the change";

// FNV-1a, 64 bits: the text is short and its own.
std::string digest_of(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return fmt::format("{:016x}", hash);
}

bool has_journals(const fs::path& dir) {
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    if (entry.path().extension() == ".journal") return true;
  }
  return false;
}

// A bound on time changes no answer that is kept to it, and a second pass over the others wants another.
SamplingParams what_shapes_answers(SamplingParams params) {
  params.max_seconds = 0.0;
  return params;
}

// What resume_conflicts() cannot explain from [sampling] alone.
void explain_bounds(const io::Manifest& before, const io::Manifest& now, std::vector<std::string>& lines) {
  const json was = json::parse(before.job_json), is = json::parse(now.job_json);
  for (const char* key : {"/model/max_context", "/job/max_answer_tokens"}) {
    const json::json_pointer place(key);
    const json a = was.value(place, json("auto")), b = is.value(place, json("auto"));
    std::string name(key + 1);
    name.replace(name.find('/'), 1, ".");
    if (a != b) lines.push_back(fmt::format("{}: {} -> {}", name, a.dump(), b.dump()));
  }
}

void explain_kernels(const Job& job, std::vector<std::string>& lines) {
  const std::string before = kernels_in_use(job);
  if (before.empty() || job.run.kernels == "auto" || job.run.kernels == before) return;
  lines.push_back(fmt::format("run.kernels: {} -> {}", before, job.run.kernels));
}

void refuse_if(const std::vector<std::string>& conflicts, const fs::path& what) {
  if (conflicts.empty()) return;
  throw BadInput(fmt::format("{} belongs to another job:\n  {}", what.string(), fmt::join(conflicts, "\n  ")),
                 kWaysOut);
}

void check_journal(const Job& job, const io::Manifest& now) {
  const fs::path dir = job.journal_dir();
  const std::optional<io::Manifest> before = io::read_manifest(dir.string());
  if (!before) {
    throw BadInput(fmt::format("{} holds journals but no manifest", dir.string()), kWaysOut);
  }
  std::vector<std::string> conflicts = io::resume_conflicts(*before, now);
  if (before->sampling_digest != now.sampling_digest) explain_bounds(*before, now, conflicts);
  explain_kernels(job, conflicts);
  refuse_if(conflicts, dir);
}

void check_result(const Job& job, const io::Manifest& now) {
  std::optional<io::Manifest> before;
  try {
    if (const auto root = read_result_root(job.job.output)) before = manifest_in(root->provenance);
  } catch (const json::exception&) {
  } catch (const BadInput&) {
  }
  if (!before) {
    throw BadInput(fmt::format("{} exists and is not the result of a job", job.job.output.string()),
                   kWaysOut);
  }
  std::vector<std::string> conflicts = io::resume_conflicts(*before, now);
  if (before->sampling_digest != now.sampling_digest) explain_bounds(*before, now, conflicts);
  refuse_if(conflicts, job.job.output);
}

}  // namespace

io::Manifest manifest_of(const Job& job, const std::string& input_digest, const std::string& model_digest) {
  io::Manifest manifest;
  manifest.input_path = job.job.input.string();
  manifest.input_digest = input_digest;
  manifest.model_digest = model_digest;
  manifest.sampling_digest = digest_of(fmt::format(
      "{} {} {} {} {}", params_to_json(what_shapes_answers(job.sampling)), job.model.dtype,
      job.model.max_context.value_or(0), job.run.numerics, job.job.max_answer_tokens.value_or(0)));
  manifest.job_json = job_to_json(job);
  return manifest;
}

io::Manifest manifest_in(const std::string& provenance) {
  const json in = json::parse(provenance);
  io::Manifest m;
  m.version = in.at("manifest_version");
  m.input_path = in.at("input_path");
  m.input_digest = in.at("input_digest");
  m.model_digest = in.at("model_digest");
  m.sampling_digest = in.at("sampling_digest");
  m.job_json = in.at("job").dump();
  return m;
}

Start decide_start(const Job& job, const io::Manifest& now, bool restart) {
  if (restart) return Start::fresh;
  const fs::path dir = job.journal_dir();
  const bool begun = fs::is_directory(dir) && !fs::exists(dir / kReopening);
  if (begun && (has_journals(dir) || fs::exists(dir / "manifest.json"))) {
    check_journal(job, now);
    return Start::resume;
  }
  if (!fs::exists(job.job.output)) return Start::fresh;
  check_result(job, now);
  return Start::complete;
}

std::string kernels_in_use(const Job& job) {
  std::string kernels;
  for (const RunRecord& run : Session(job).read_runs()) kernels = run.kernel_set;
  return kernels;
}

std::vector<fs::path> set_aside(const Job& job) {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &utc);
  std::vector<fs::path> moved;
  for (const fs::path& old : {job.job.output, job.journal_dir()}) {
    if (!fs::exists(old)) continue;
    fs::path name = old;
    name += fmt::format(".bak-{}", stamp);
    for (int again = 2; fs::exists(name); ++again)
      name = fmt::format("{}.bak-{}-{}", old.string(), stamp, again);
    fs::rename(old, name);
    moved.push_back(name);
  }
  return moved;
}

std::optional<ResultRoot> read_result_root(const fs::path& result) {
  ResultRoot root;
  for (const auto& [name, value] : io::inspect_file(result.string()).attributes) {
    if (name == "provenance") root.provenance = value;
    if (name == "summary") root.summary = value;
  }
  if (root.provenance.empty() || root.summary.empty()) return std::nullopt;
  return root;
}

}  // namespace nightshift::runtime
