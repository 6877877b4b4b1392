// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/geometry.h"

#include <algorithm>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

// Ranks that the job file fixes: replicas x sequence x tensor.
std::optional<int> ranks_of(const Job& job) {
  const auto& p = job.parallel;
  if (p.sequence.value_or(1) != 1 || p.tensor.value_or(1) != 1) {
    throw BadInput(
        fmt::format("parallel.sequence = {}, parallel.tensor = {}: this version runs replicas of one rank",
                    p.sequence.value_or(1), p.tensor.value_or(1)),
        "leave both at auto or 1, and set parallel.replicas or --ranks");
  }
  return p.replicas ? std::optional<int>(static_cast<int>(*p.replicas)) : std::nullopt;
}

int default_ranks(const Machine& machine) {
  const int nodes = machine.slurm ? machine.slurm->nodes : 1;
  if (machine.slurm && machine.slurm->tasks) return *machine.slurm->tasks;
  return nodes * std::max(1, machine.gpus > 0 ? machine.gpus : machine.sockets);
}

int cores_for(const Machine& machine, int ranks_per_node) {
  const auto& slurm = machine.slurm;
  if (slurm && slurm->cpus_per_task) return *slurm->cpus_per_task * ranks_per_node;
  return machine.cores;
}

bool needs_quotes(const std::string& word) {
  return word.empty() || word.find_first_not_of(
                             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                             "_-+=:,./%@") != std::string::npos;
}

std::string quoted(const std::string& word) {
  if (!needs_quotes(word)) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Waiting threads sleep: a spinning one next to another rank on the same cores turns microseconds into
// milliseconds. OMP_PROC_BIND=true would do the same where ranks are not bound (every rank pins to the same
// first core), and where they are it would pin the host threads of a rank, which its main thread starts, to
// one core.
std::map<std::string, std::string> openmp_environment(const Geometry& geometry) {
  return {{"OMP_NUM_THREADS", std::to_string(geometry.threads)},
          {"OMP_WAIT_POLICY", "passive"},
          {"OMP_PROC_BIND", "false"}};
}

LaunchCommand mpirun_command(const Geometry& geometry, const Machine& machine) {
  LaunchCommand command;
  command.environment = openmp_environment(geometry);
  command.argv = {"mpirun", "-np", std::to_string(geometry.ranks), "--tag-output"};
  const auto add = [&](std::initializer_list<std::string> words) {
    command.argv.insert(command.argv.end(), words);
  };
  if (geometry.bound) {
    add({"--map-by", fmt::format("slot:PE={}", geometry.threads), "--bind-to", "core:if-supported"});
  } else {
    add({"--oversubscribe", "--bind-to", "none"});
  }
  for (const auto& [name, value] : command.environment) add({"-x", name});
  if (machine.root) {
    command.environment["OMPI_ALLOW_RUN_AS_ROOT"] = "1";
    command.environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1";
  }
  command.environment["OMPI_MCA_btl_base_warn_component_unused"] = "0";  // fabrics that are not there
  if (!machine.single_copy) command.environment["OMPI_MCA_btl_vader_single_copy_mechanism"] = "none";
  return command;
}

LaunchCommand srun_command(const Geometry& geometry, const Machine& machine) {
  LaunchCommand command;
  command.environment = openmp_environment(geometry);
  command.argv = {"srun",
                  "--ntasks",
                  std::to_string(geometry.ranks),
                  "--cpus-per-task",
                  std::to_string(geometry.threads),
                  "--kill-on-bad-exit=1",
                  "--label",
                  "--input=none"};
  if (machine.slurm->has_pmix) command.argv.push_back("--mpi=pmix");
  command.argv.push_back(geometry.bound ? "--cpu-bind=cores" : "--cpu-bind=none");
  if (!geometry.bound) command.argv.push_back("--overcommit");
  return command;
}

}  // namespace

Geometry resolve_geometry(const Job& job, int ranks, const Machine& machine) {
  const std::optional<int> fixed = ranks_of(job);
  if (ranks < 0) throw BadInput(fmt::format("--ranks {}", ranks), "a positive number, or 0 for automatic");
  if (fixed && ranks > 0 && *fixed != ranks) {
    throw BadInput(fmt::format("--ranks {} contradicts parallel.replicas = {}", ranks, *fixed),
                   "drop one of the two");
  }
  if (job.run.device == "cuda" && machine.gpus == 0) {
    throw BadInput("run.device = \"cuda\", but there is no GPU that this build can use",
                   "nightshift --version shows what is compiled in; run.device = \"cpu\" runs here");
  }
  Geometry g;
  g.ranks = ranks > 0 ? ranks : fixed.value_or(default_ranks(machine));
  const int nodes = std::min(machine.slurm ? machine.slurm->nodes : 1, g.ranks);
  g.ranks_per_node = (g.ranks + nodes - 1) / nodes;
  const int cores = cores_for(machine, g.ranks_per_node);
  g.threads = static_cast<int>(job.run.threads.value_or(std::max(1, cores / g.ranks_per_node)));
  g.bound = g.ranks_per_node * g.threads <= cores;
  return g;
}

std::string LaunchCommand::text() const {
  std::string out;
  for (const auto& [name, value] : environment) out += fmt::format("{}={} ", name, quoted(value));
  for (const std::string& word : argv) out += quoted(word) + " ";
  out.pop_back();
  return out;
}

LaunchCommand launch_command(const Geometry& geometry, const Machine& machine,
                             const std::string& rank_program, const std::string& session_dir) {
  // srun without PMIx would start every task as a job of its own.
  const bool srun = machine.slurm && machine.slurm->has_srun && machine.slurm->has_pmix;
  LaunchCommand command = srun ? srun_command(geometry, machine) : mpirun_command(geometry, machine);
  command.argv.push_back(rank_program);
  command.argv.push_back(session_dir);
  return command;
}

}  // namespace nightshift::runtime
