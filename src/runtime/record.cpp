// SPDX-License-Identifier: Apache-2.0
#include "runtime/record.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "runtime/job/version.h"

namespace nightshift::runtime {
namespace {

std::uint64_t memory_line(const char* file, const char* key) {
  std::ifstream in(file);
  for (std::string name; in >> name;) {
    std::uint64_t kib = 0;
    if (name == key && in >> kib) return kib << 10;
    in.clear();
    in.ignore(4096, '\n');
  }
  return 0;
}

std::map<std::string, std::string> slurm_facts() {
  std::map<std::string, std::string> facts;
  for (const char* name : {"SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT",
                           "SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME", "SLURM_JOB_NUM_NODES"}) {
    if (const char* value = std::getenv(name)) facts[name] = value;
  }
  return facts;
}

// Proportional: pages that ranks share, their weights above all, are counted once. Two hosts whose names
// collide here are counted as one, which leaves the sum over hosts as it is.
void count_host_memory(const model::Model& model, const parallel::Communicator& world,
                       RunCounters& counters) {
  world.barrier();  // everybody's memory stands
  const auto name = std::hash<std::string>()(parallel::Communicator::host_name());
  const auto host = world.split(static_cast<int>(name & 0x7fffffffU), world.rank());
  const auto mine = static_cast<double>(memory_line("/proc/self/smaps_rollup", "Pss:"));
  const double all = host.sum(mine);
  if (host.rank() != 0) return;
  counters.host_pss_bytes = static_cast<std::uint64_t>(all);
  counters.weight_bytes = static_cast<std::uint64_t>(model.memory().weights);
}

}  // namespace

void count_at_end(const model::Model& model, const parallel::DeviceMesh& mesh, RunCounters& counters) {
  const auto peak = model.measured_peak();
  counters.peak_flops = peak.bf16_flops;
  counters.peak_bandwidth = peak.read_bandwidth;
  counters.resident_bytes = memory_line("/proc/self/status", "VmRSS:");
  counters.weight_bytes_per_rank = static_cast<std::uint64_t>(model.weight_bytes(parallel::Layout::base));
  const parallel::TrafficSums traffic = mesh.world().traffic();
  for (std::size_t kind = 0; kind < traffic.size(); ++kind) {
    const parallel::TrafficSum& sum = traffic[kind];
    if (sum.calls > 0) counters.traffic[parallel::kTrafficNames[kind]] = {sum.bytes, sum.calls, sum.seconds};
  }
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
