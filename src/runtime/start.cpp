// SPDX-License-Identifier: Apache-2.0
#include "runtime/start.h"

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "io/io.h"

namespace nightshift::runtime {

Start share_start(const Session& session, const parallel::Communicator& world) {
  std::string text;
  if (world.rank() == 0) {
    const auto manifest = io::read_manifest(session.dir().string());
    if (!manifest)
      throw Error(fmt::format("{} has no manifest", session.dir().string()),
                  "start the job with `nightshift run`");
    const auto runs = session.read_runs();
    text = nlohmann::json{{"job", job_to_json(session.read_job())},
                          {"number", runs.empty() ? 1 : runs.back().number + 1},
                          {"started", session.started_unix()},
                          {"fingerprint", manifest->fingerprint()},
                          {"scope", read_scope(session.dir()).to_json()}}
               .dump();
  }
  world.broadcast(text);
  const auto shared = nlohmann::json::parse(text);
  return {job_from_json(shared.at("job").get<std::string>()), shared.at("number"), shared.at("started"),
          shared.at("fingerprint"), Scope::from_json(shared.at("scope").get<std::string>())};
}

}  // namespace nightshift::runtime
