// SPDX-License-Identifier: Apache-2.0
// The small files beside a running job, as `nightshift status`, `run` and `report` read them. The first line
// of the input names the file, the rest is its content.
#include <array>

#include "fuzz/support.h"
#include "io/manifest.h"
#include "runtime/job/liveness.h"
#include "runtime/job/report.h"

using namespace nightshift;

namespace {

constexpr std::array kFiles{"status.json", "run-0001.json", "manifest.json", "job.json", "lock", "started"};

void read_folder(const fuzz::ScratchFolder& folder) {
  const auto output = folder.path() / "out.h5";
  const runtime::Session session(folder.path() / "out.h5.journal");
  fuzz::allow_errors([&] {
    const runtime::Liveness found = runtime::look_at_job(output);
    fuzz::expect(!to_text(found, output).empty() && !to_json(found).empty(), "the status is empty");
  });
  fuzz::allow_errors([&] {
    io::Manifest now;
    now.job_json = R"({"sampling": {"seed": 1}})";
    if (const auto manifest = io::read_manifest(session.dir())) io::resume_conflicts(*manifest, now);
  });
  fuzz::allow_errors([&] { job_to_toml(session.read_job()); });
  fuzz::allow_errors([&] { session.started_unix(); });
  fuzz::allow_errors([&] {
    runtime::RunCounters sum;
    for (const runtime::RunRecord& run : session.read_runs()) sum.add(run.total);
    for (const double q : {0.5, 0.99, 1.0}) sum.end_to_end.quantile(q);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  static const bool made = std::filesystem::create_directory(folder.path() / "out.h5.journal");
  fuzz::expect(made, "no journal folder");
  const std::string_view input = fuzz::as_text(data, size);
  const std::string_view name = input.substr(0, input.find('\n'));
  const std::string_view content = input.substr(std::min(name.size() + 1, input.size()));
  if (name == "report") {
    const auto parts = fuzz::split_parts(content, 2);
    fuzz::allow_errors([&] { runtime::report_text(std::string(parts[0]), std::string(parts[1])); });
    return 0;
  }
  for (const char* file : kFiles) {
    folder.remove(std::string("out.h5.journal/") + file);
    if (name == file) folder.write(std::string("out.h5.journal/") + file, content);
  }
  read_folder(folder);
  return 0;
}
