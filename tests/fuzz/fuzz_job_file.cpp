// SPDX-License-Identifier: Apache-2.0
// Job file (TOML) and one --set override. What is accepted must survive the way to the ranks.
#include "core/config.h"
#include "fuzz/support.h"

using namespace nightshift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  const auto parts = fuzz::split_parts(fuzz::as_text(data, size), 2);
  const auto file = folder.write("job.toml", parts[0]);
  fuzz::allow_errors([&] {
    std::vector<std::string> overrides;
    if (!parts[1].empty()) overrides.emplace_back(parts[1]);
    const Job job = load_job(file, overrides);
    const std::string json = job_to_json(job);
    fuzz::expect(job_to_json(job_from_json(json)) == json, "a job changed on its way through JSON");
    folder.write("resolved.toml", job_to_toml(job));
    const Job again = load_job(folder.path() / "resolved.toml");
    fuzz::expect(job_to_toml(again) == job_to_toml(job), "a job changed on its way through TOML");
  });
  return 0;
}
