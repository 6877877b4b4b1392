// SPDX-License-Identifier: Apache-2.0
#include "runtime/trace_file.h"

#include <algorithm>

#include "io/files.h"
#include "runtime/host.h"

namespace nightshift::runtime {
namespace {

constexpr std::size_t kMostEvents = 2'000'000;  // of all ranks together, about 100 bytes each
constexpr std::size_t kMostEventsPerRank = 200'000;

}  // namespace

TraceLog begin_trace(const parallel::Communicator& world) {
  using Clock = TraceLog::Clock;
  const std::size_t share = kMostEvents / static_cast<std::size_t>(world.size());
  const auto host = ranks_of_host(world);
  world.barrier();
  // One clock per host. Barriers are left up to milliseconds apart, so its first rank's word counts.
  std::string now = std::to_string(Clock::now().time_since_epoch().count());
  host.broadcast(now);
  return TraceLog(Clock::time_point(Clock::duration(std::stoll(now))), std::min(kMostEventsPerRank, share));
}

void write_trace(const TraceLog& log, const parallel::DeviceMesh& mesh, const std::filesystem::path& file) {
  const parallel::Communicator& world = mesh.world();
  const auto events = world.gather(log.events_json(mesh.replica_index(), world.rank()));
  if (world.rank() != 0) return;
  std::string text = "{\"traceEvents\":[\n";
  for (std::size_t rank = 0; rank < events.size(); ++rank) text += (rank == 0 ? "" : ",\n") + events[rank];
  io::write_file_atomically(file.string(), text + "\n]}\n", false);
}

}  // namespace nightshift::runtime
