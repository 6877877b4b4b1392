// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/nodes.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <sstream>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

// A state may end in a flag: "idle*" does not answer, "mixed#" boots, "alloc$" is in maintenance. A node that
// drains still runs what it has, but Slurm lets a job that holds it start steps there.
bool can_run(std::string_view state) {
  constexpr std::array<std::string_view, 7> kAlive = {"alloc", "allocated", "comp", "drng",
                                                      "idle",  "mix",       "mixed"};
  return std::find(kAlive.begin(), kAlive.end(), state) != kAlive.end();
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

std::vector<std::string> probe_usable_nodes() {
  std::string text;
  FILE* pipe = ::popen(
      "timeout 20 sinfo --noheader --Node --format='%N %t' --nodes=\"$SLURM_JOB_NODELIST\" 2>/dev/null "
      "</dev/null",
      "r");
  if (pipe == nullptr) return {};
  std::array<char, 4096> bytes;
  while (const std::size_t size = ::fread(bytes.data(), 1, bytes.size(), pipe))
    text.append(bytes.data(), size);
  ::pclose(pipe);
  return usable_nodes(text);
}

Geometry shrink(Geometry geometry, int nodes, int left) {
  if (left >= nodes) return geometry;
  const int size = geometry.degrees.ranks();
  geometry.replicas = std::min(geometry.ranks, left * geometry.ranks_per_node) / size;
  geometry.ranks = geometry.replicas * size;
  return geometry;
}

void keep_to_nodes(LaunchCommand& command, const std::vector<std::string>& nodes) {
  command.argv.insert(command.argv.begin() + 1, {"--nodes", std::to_string(nodes.size()), "--nodelist",
                                                 fmt::format("{}", fmt::join(nodes, ","))});
}

}  // namespace nightshift::runtime
