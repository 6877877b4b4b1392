// SPDX-License-Identifier: Apache-2.0
#include "runtime/record.h"

#include <algorithm>
#include <cstdlib>

#include "runtime/host.h"
#include "runtime/job/version.h"

namespace nightshift::runtime {
namespace {

std::map<std::string, std::string> slurm_facts() {
  std::map<std::string, std::string> facts;
  for (const char* name : {"SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT",
                           "SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME", "SLURM_JOB_NUM_NODES"}) {
    if (const char* value = std::getenv(name)) facts[name] = value;
  }
  return facts;
}

// Proportional, so that pages which ranks share, their weights above all, are counted once.
void count_host_memory(const model::Model& model, const parallel::Communicator& world,
                       RunCounters& counters) {
  const auto host = ranks_of_host(world);  // everybody is here, and everybody's memory stands
  const double all = host.sum(static_cast<double>(proportional_bytes()));
  if (host.rank() != 0) return;
  counters.host_pss_bytes = static_cast<std::uint64_t>(all);
  counters.weight_bytes = static_cast<std::uint64_t>(model.memory().weights);
}

void count_traffic(const parallel::TrafficSums& now, const parallel::TrafficSums& before,
                   RunCounters& counters) {
  for (std::size_t kind = 0; kind < now.size(); ++kind) {
    const parallel::TrafficSum &a = before[kind], &b = now[kind];
    if (b.calls > a.calls)
      counters.traffic[parallel::kTrafficNames[kind]] = {b.bytes - a.bytes, b.calls - a.calls,
                                                         b.seconds - a.seconds};
  }
}

}  // namespace

void count_at_end(const model::Model& model, const parallel::DeviceMesh& mesh,
                  const parallel::TrafficSums& before, RunCounters& counters) {
  count_traffic(mesh.world().traffic(), before, counters);
  const auto peak = model.measured_peak();
  counters.peak_flops = peak.bf16_flops;
  counters.peak_bandwidth = peak.read_bandwidth;
  counters.resident_bytes = resident_bytes();
  counters.weight_bytes_per_rank = static_cast<std::uint64_t>(model.weight_bytes(parallel::Layout::base));
  count_host_memory(model, mesh.world(), counters);
}

void write_record(const Session& session, const parallel::Communicator& world, const RunCounters& counters,
                  const std::string& stopped_by, RunRecord run) {
  const std::vector<std::string> all = world.gather(counters.to_json());
  std::vector<std::string> hosts = world.gather(parallel::Communicator::host_name());
  const std::vector<std::string> stops = world.gather(stopped_by);
  if (world.rank() != 0) return;
  for (const std::string& name : stops) run.stopped_by = run.stopped_by.empty() ? name : run.stopped_by;
  run.ranks = world.size();
  std::sort(hosts.begin(), hosts.end());
  hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
  run.hosts = std::move(hosts);
  run.slurm = slurm_facts();
  run.git_revision = git_revision();
  run.version = version();
  for (const std::string& text : all) {
    run.per_rank.push_back(RunCounters::from_json(text));
    run.total.add(run.per_rank.back());
  }
  session.write_run(run);
}

}  // namespace nightshift::runtime
