// SPDX-License-Identifier: Apache-2.0
// What this process may use of the machine: affinity, cgroup limits, GPUs, and the Slurm allocation around
// it.
#include <sched.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

#include <fmt/format.h>

#include "runtime/job/geometry.h"
#include "runtime/job/version.h"

namespace nightshift::runtime {
namespace {

namespace fs = std::filesystem;

std::optional<long> read_number(const fs::path& file) {
  std::ifstream in(file);
  long value = 0;
  return in >> value ? std::optional<long>(value) : std::nullopt;
}

std::vector<int> usable_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  return cpus;
}

// This process's control group (version 2) and its parents: the tightest limit counts.
std::vector<fs::path> control_groups() {
  std::vector<fs::path> groups;
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("0::")) continue;
    for (fs::path group = fs::path("/sys/fs/cgroup") / line.substr(4); group.string().size() > 1;
         group = group.parent_path()) {
      groups.push_back(group);
      if (group == "/sys/fs/cgroup") break;
    }
  }
  return groups;
}

double quota_cores() {
  double cores = std::numeric_limits<double>::infinity();
  for (const fs::path& group : control_groups()) {
    std::ifstream in(group / "cpu.max");
    std::string quota;
    double period = 0;
    if (in >> quota >> period && quota != "max") cores = std::min(cores, std::stod(quota) / period);
  }
  return cores;
}

// Page cache counts as used by a control group, and goes when memory is wanted.
long reclaimable_memory(const fs::path& group) {
  long bytes = 0;
  std::ifstream in(group / "memory.stat");
  long value = 0;
  for (std::string name; in >> name >> value;) {
    if (name == "active_file" || name == "inactive_file") bytes += value;
  }
  return bytes;
}

int visible_gpus() {
  if (!has_cuda_library()) return 0;
  if (const char* list = std::getenv("CUDA_VISIBLE_DEVICES")) {
    const std::string text = list;
    return text.empty() || text == "-1" ? 0 : static_cast<int>(std::count(text.begin(), text.end(), ',')) + 1;
  }
  int gpus = 0;
  while (fs::exists("/dev/nvidia" + std::to_string(gpus))) ++gpus;
  return gpus;
}

// Where a sandbox forbids the call, it forbids it for our own memory too.
bool may_copy_between_processes() {
  char from = 1;
  char to = 0;
  const iovec local{&to, 1};
  const iovec remote{&from, 1};
  return ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0) == 1;
}

// MPI keeps shared windows there. A tmpfs without a limit has no blocks.
std::optional<std::uint64_t> free_shared_memory() {
  struct statvfs status {};
  if (::statvfs("/dev/shm", &status) != 0 || status.f_blocks == 0) return std::nullopt;
  return static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
}

std::string output_of(const char* shell_command) {
  std::string out;
  if (FILE* pipe = ::popen(shell_command, "r")) {
    char buffer[512];
    while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) out += buffer;
    ::pclose(pipe);
  }
  return out;
}

std::optional<Slurm> probe_slurm() {
  std::optional<Slurm> slurm = read_allocation([](const char* name) { return std::getenv(name); });
  if (!slurm) return std::nullopt;
  const std::string plugins = output_of("srun --mpi=list 2>&1");
  slurm->has_srun = plugins.find("MPI") != std::string::npos;
  slurm->has_pmix = plugins.find("pmix") != std::string::npos;
  const std::string query = end_time_query(std::getenv("SLURM_JOB_ID"));
  if (!slurm->end_time && !query.empty()) slurm->end_time = parse_end_time(output_of(query.c_str()));
  return slurm;
}

}  // namespace

std::uint64_t available_memory() {
  std::uint64_t bytes = 0;
  std::ifstream in("/proc/meminfo");
  for (std::string name, rest; in >> name; std::getline(in, rest)) {
    if (name == "MemAvailable:" && in >> bytes) break;
  }
  bytes *= 1024;
  for (const fs::path& group : control_groups()) {
    const auto limit = read_number(group / "memory.max");
    const auto used = read_number(group / "memory.current");
    if (!limit || !used) continue;
    const long left = *limit - std::max(0L, *used - reclaimable_memory(group));
    bytes = std::min(bytes, static_cast<std::uint64_t>(std::max(0L, left)));
  }
  return bytes;
}

Machine probe_machine() {
  Machine machine;
  std::set<std::pair<long, long>> cores;  // (package, core): hardware threads of a core fall together
  std::set<long> sockets;
  for (const int cpu : usable_cpus()) {
    const fs::path topology = fmt::format("/sys/devices/system/cpu/cpu{}/topology", cpu);
    const long package = read_number(topology / "physical_package_id").value_or(0);
    cores.insert({package, read_number(topology / "core_id").value_or(cpu)});
    sockets.insert(package);
  }
  const double quota = std::max(1.0, std::floor(quota_cores()));
  machine.cores = static_cast<int>(std::clamp(static_cast<double>(cores.size()), 1.0, quota));
  machine.sockets = std::max(1, std::min(static_cast<int>(sockets.size()), machine.cores));
  machine.gpus = visible_gpus();
  machine.memory_bytes = available_memory();
  machine.shared_bytes = free_shared_memory();
  machine.root = ::geteuid() == 0;
  machine.single_copy = may_copy_between_processes();
  machine.one_sided_chosen = std::getenv("OMPI_MCA_osc") != nullptr;
  machine.slurm = probe_slurm();
  if (has_cuda_library() && machine.slurm && machine.slurm->gpus_on_node)
    machine.gpus = *machine.slurm->gpus_on_node;
  return machine;
}

}  // namespace nightshift::runtime
