// SPDX-License-Identifier: Apache-2.0
#include "runtime/start.h"

#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/io.h"

namespace nightshift::runtime {
namespace {

// Unix seconds; Slurm tells it to whatever it starts.
std::optional<std::int64_t> end_of_allocation() {
  const char* text = std::getenv("SLURM_JOB_END_TIME");
  char* end = nullptr;
  const std::int64_t time = text == nullptr ? 0 : std::strtoll(text, &end, 10);
  if (time <= 0 || *end != '\0') return std::nullopt;
  return time;
}

nlohmann::json seconds_left() {
  const auto end = end_of_allocation();
  if (!end) return nullptr;
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<double>(*end) - now.count();
}

}  // namespace

Start share_start(const Session& session, const parallel::Communicator& world) {
  std::string text;
  if (world.rank() == 0) {
    session.check_launcher();
    const auto manifest = io::read_manifest(session.dir().string());
    if (!manifest)
      throw Error(fmt::format("{} has no manifest", session.dir().string()),
                  "start the job with `nightshift run`");
    const auto runs = session.read_runs();
    text =
        nlohmann::json{
            {"job", job_to_json(session.read_job())}, {"number", runs.empty() ? 1 : runs.back().number + 1},
            {"started", session.started_unix()},      {"fingerprint", manifest->fingerprint()},
            {"seconds_left", seconds_left()},         {"scope", read_scope(session.dir()).to_json()}}
            .dump();
  }
  world.broadcast(text);
  const auto shared = nlohmann::json::parse(text);
  Start start{job_from_json(shared.at("job").get<std::string>()),
              shared.at("number"),
              shared.at("started"),
              shared.at("fingerprint"),
              std::nullopt,
              Scope::from_json(shared.at("scope").get<std::string>())};
  if (const auto& left = shared.at("seconds_left"); !left.is_null()) start.seconds_left = left.get<double>();
  return start;
}

}  // namespace nightshift::runtime
