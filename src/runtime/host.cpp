// SPDX-License-Identifier: Apache-2.0
#include "runtime/host.h"

#include <fstream>
#include <functional>
#include <string>

namespace nightshift::runtime {
namespace {

// The line "KEY  4711 kB"; 0 where there is none.
std::uint64_t memory_line(const char* file, const char* key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key, 0) == 0) return std::stoull(line.substr(std::string(key).size())) << 10;
  }
  return 0;
}

}  // namespace

parallel::Communicator ranks_of_host(const parallel::Communicator& world) {
  const auto name = std::hash<std::string>()(parallel::Communicator::host_name());
  return world.split(static_cast<int>(name & 0x7fffffffU), world.rank());
}

std::uint64_t resident_bytes() {
  return memory_line("/proc/self/status", "VmRSS:");
}
std::uint64_t proportional_bytes() {
  return memory_line("/proc/self/smaps_rollup", "Pss:");
}

}  // namespace nightshift::runtime
