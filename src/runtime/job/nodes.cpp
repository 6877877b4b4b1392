// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/nodes.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <set>
#include <sstream>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

// A state may end in a flag: "idle*" does not answer, "mixed#" boots, "idle~" is switched off. Others,
// planned for or about to be rebooted ("alloc@"), still run what they have. A node that drains does so too,
// but Slurm lets a job that holds it start steps there.
bool can_run(std::string_view state) {
  constexpr std::string_view kHarmless = "$@-!";
  while (!state.empty() && kHarmless.find(state.back()) != std::string_view::npos) state.remove_suffix(1);
  constexpr std::array<std::string_view, 7> kAlive = {"alloc", "allocated", "comp", "drng",
                                                      "idle",  "mix",       "mixed"};
  return std::find(kAlive.begin(), kAlive.end(), state) != kAlive.end();
}

// What a command prints; "" where it cannot be run.
std::string output_of(const std::string& command) {
  FILE* pipe = ::popen((command + " 2>/dev/null </dev/null").c_str(), "r");
  if (pipe == nullptr) return {};
  std::string text;
  std::array<char, 4096> bytes;
  while (const std::size_t size = ::fread(bytes.data(), 1, bytes.size(), pipe))
    text.append(bytes.data(), size);
  ::pclose(pipe);
  return text;
}

}  // namespace

std::vector<std::string> usable_nodes(std::string_view sinfo) {
  std::vector<std::string> nodes;
  std::istringstream lines{std::string(sinfo)};
  for (std::string name, state; lines >> name >> state;) {
    const bool known = std::find(nodes.begin(), nodes.end(), name) != nodes.end();  // in two partitions
    if (can_run(state) && !known) nodes.push_back(name);
  }
  return nodes;
}

std::vector<std::string> answering_nodes(std::string_view srun, const std::vector<std::string>& asked) {
  std::set<std::string, std::less<>> answered;
  std::istringstream lines{std::string(srun)};
  for (std::string line; std::getline(lines, line);) answered.insert(line);
  std::vector<std::string> nodes = asked;
  std::erase_if(nodes, [&](const std::string& node) { return !answered.contains(node); });
  return nodes;
}

// A node that has lost its power is "alloc" for minutes yet: what counts is whether it still starts a
// process.
std::vector<std::string> probe_usable_nodes() {
  const std::vector<std::string> listed = usable_nodes(
      output_of("timeout 20 sinfo --noheader --Node --format='%N %t' --nodes=\"$SLURM_JOB_NODELIST\""));
  if (listed.empty()) return {};
  const std::string on_each = fmt::format(
      "timeout 60 srun --overlap --nodes={0} --ntasks={0} --ntasks-per-node=1 --cpus-per-task=1 "
      "--kill-on-bad-exit=0 --mpi=none --nodelist={1} sh -c 'echo \"$SLURMD_NODENAME\"'",
      listed.size(), fmt::join(listed, ","));
  return answering_nodes(output_of(on_each), listed);
}

Geometry shrink(Geometry geometry, int nodes, int left) {
  if (left >= nodes) return geometry;
  const int size = geometry.degrees.ranks();
  geometry.replicas = std::min(geometry.ranks, left * geometry.ranks_per_node) / size;
  geometry.ranks = geometry.replicas * size;
  return geometry;
}

void keep_to_nodes(LaunchCommand& command, const std::vector<std::string>& nodes, int ranks_per_node) {
  auto& argv = command.argv;
  if (argv.front() == "srun") {
    argv.insert(argv.begin() + 1, {"--nodes", std::to_string(nodes.size()), "--nodelist",
                                   fmt::format("{}", fmt::join(nodes, ","))});
  } else {
    const std::string slots = fmt::format(":{}", ranks_per_node);
    argv.insert(argv.begin() + 1, {"--host", fmt::format("{}{}", fmt::join(nodes, slots + ","), slots)});
  }
}

}  // namespace nightshift::runtime
