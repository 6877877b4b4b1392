// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/geometry.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/check.h"
#include "runtime/job/shell.h"

namespace nightshift::runtime {
namespace {

constexpr std::int64_t kMostRanks = 1'000'000;

// Devices or sockets, as far as this process may use them.
int default_ranks(const Job& job, const Machine& machine) {
  const int nodes = machine.slurm ? machine.slurm->nodes : 1;
  const int gpus = may_use_gpus(job) ? machine.gpus : 0;
  return nodes * std::max(1, gpus > 0 ? gpus : machine.sockets);
}

std::string shape_of(const parallel::Degrees& degrees) {
  return fmt::format("sequence {} x tensor {}", degrees.sequence, degrees.tensor);
}

// What the command line or the allocation asks for, as whole replicas.
int whole_replicas(int ranks, const parallel::Degrees& degrees, std::string_view asked) {
  const int size = degrees.ranks(), below = ranks / size * size;
  if (below == ranks) return ranks / size;
  const std::string legal = below == 0 ? std::to_string(size) : fmt::format("{} or {}", below, below + size);
  throw BadInput(fmt::format("{} {}: no whole number of replicas of {} ranks ({})", asked, ranks, size,
                             shape_of(degrees)),
                 fmt::format("take {} ranks, or other parallel.sequence and parallel.tensor", legal));
}

int replicas_of(const Job& job, int ranks, const parallel::Degrees& degrees, const Machine& machine) {
  if (job.parallel.replicas) {
    const auto replicas = static_cast<int>(*job.parallel.replicas);
    const std::int64_t fixed = *job.parallel.replicas * degrees.ranks();
    if (ranks > 0 && fixed != ranks)
      throw BadInput(fmt::format("--ranks {} contradicts parallel.replicas = {}, which takes {} ranks", ranks,
                                 replicas, fixed),
                     "drop one of the two");
    return replicas;
  }
  if (ranks > 0) return whole_replicas(ranks, degrees, "--ranks");
  if (machine.slurm && machine.slurm->tasks)
    return whole_replicas(*machine.slurm->tasks, degrees, "SLURM_NTASKS =");
  return std::max(1, default_ranks(job, machine) / degrees.ranks());
}

// Ranks on each node: as Slurm has laid its tasks out, when these are the ranks; else consecutive ranks in
// even shares.
std::vector<int> ranks_on_nodes(int ranks, const Machine& machine) {
  if (machine.slurm) {
    const std::vector<int>& tasks = machine.slurm->tasks_on_node;
    if (std::accumulate(tasks.begin(), tasks.end(), 0) == ranks) return tasks;
  }
  const int nodes = std::min(machine.slurm ? machine.slurm->nodes : 1, ranks);
  std::vector<int> shares(static_cast<std::size_t>(nodes), ranks / nodes);
  for (int node = 0; node < ranks % nodes; ++node) ++shares[static_cast<std::size_t>(node)];
  return shares;
}

// What ranks may use of a node. Slurm counts CPUs, which may be hardware threads; where this process stands
// on a node, it sees the cores too.
int cores_of_node(std::size_t node, int ranks_there, const Machine& machine) {
  if (!machine.slurm) return machine.cores;
  const Slurm& slurm = *machine.slurm;
  const bool known = node < slurm.cpus_on_node.size();
  if (slurm.cpus_per_task) {  // of a task; --ranks may ask for more of them than the node has room for
    const int wanted = *slurm.cpus_per_task * ranks_there;
    return known ? std::min(wanted, slurm.cpus_on_node[node]) : wanted;
  }
  if (!known) return machine.cores;
  const int cpus = slurm.cpus_on_node[node];
  return slurm.on_a_node ? std::min(cpus, machine.cores) : cpus;
}

// Every rank runs as many threads as the one with the fewest cores can.
void share_cores(Geometry& geometry, std::optional<std::int64_t> threads, const Machine& machine) {
  const std::vector<int> ranks = ranks_on_nodes(geometry.ranks, machine);
  geometry.ranks_per_node = *std::max_element(ranks.begin(), ranks.end());
  int least = std::numeric_limits<int>::max();
  for (std::size_t node = 0; node < ranks.size(); ++node)
    least = std::min(least, cores_of_node(node, ranks[node], machine) / ranks[node]);
  geometry.threads = static_cast<int>(threads.value_or(std::max(1, least)));
  geometry.bound = geometry.threads <= least;
}

// Waiting threads sleep: a spinning one next to another rank on the same cores turns microseconds into
// milliseconds. OMP_PROC_BIND=true would do the same where ranks are not bound (every rank pins to the same
// first core), and where they are it would pin the host threads of a rank, which its main thread starts, to
// one core.
//
// The same holds for ranks that share cores: each waits for the others in MPI, and unless it yields there,
// the one waited for gets its core only when the kernel takes it away. Open MPI finds this out for itself
// only where ranks outnumber the cores of the machine, not those of the job.
std::map<std::string, std::string> waiting_environment(const Geometry& geometry) {
  std::map<std::string, std::string> environment = {{"OMP_NUM_THREADS", std::to_string(geometry.threads)},
                                                    {"OMP_WAIT_POLICY", "passive"},
                                                    {"OMP_PROC_BIND", "false"}};
  if (!geometry.bound) environment["OMPI_MCA_mpi_yield_when_idle"] = "1";
  return environment;
}

// The work queue counts in memory of rank 0. Debian's configuration of Open MPI switches off all components
// that can do so across nodes without special hardware; "^none" switches off none, as without a
// configuration.
void allow_one_sided(std::map<std::string, std::string>& environment, const Geometry& geometry,
                     const Machine& machine) {
  if (geometry.ranks > geometry.ranks_per_node && !machine.one_sided_chosen)
    environment["OMPI_MCA_osc"] = "^none";
}

std::map<std::string, std::string> rank_environment(const Geometry& geometry, const Machine& machine) {
  std::map<std::string, std::string> environment = waiting_environment(geometry);
  allow_one_sided(environment, geometry, machine);
  if (machine.slurm && machine.slurm->end_time)
    environment["SLURM_JOB_END_TIME"] = std::to_string(*machine.slurm->end_time);
  return environment;
}

LaunchCommand mpirun_command(const Geometry& geometry, const Machine& machine) {
  LaunchCommand command;
  command.environment = rank_environment(geometry, machine);
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

// --overlap: the step of an earlier start may still be ending, and an interactive one may be around us.
LaunchCommand srun_command(const Geometry& geometry, const Machine& machine) {
  LaunchCommand command;
  command.environment = rank_environment(geometry, machine);
  command.argv = {"srun",
                  "--ntasks",
                  std::to_string(geometry.ranks),
                  "--ntasks-per-node",
                  std::to_string(geometry.ranks_per_node),
                  "--cpus-per-task",
                  std::to_string(geometry.threads),
                  "--distribution=block",
                  "--overlap",
                  "--kill-on-bad-exit=1",
                  "--label",
                  "--input=none"};
  if (machine.slurm->has_pmix) command.argv.push_back("--mpi=pmix");
  command.argv.push_back(geometry.bound ? "--cpu-bind=cores" : "--cpu-bind=none");
  if (!geometry.bound) command.argv.push_back("--overcommit");
  return command;
}

}  // namespace

namespace {
bool names_gpu_kernels(const Job& job) {
  return job.run.kernels == "cuda" || job.run.kernels == "cuda_fast";
}
}  // namespace

bool needs_gpus(const Job& job) {
  return job.run.device == "cuda" || names_gpu_kernels(job);
}

bool may_use_gpus(const Job& job) {
  return needs_gpus(job) || (job.run.device == "auto" && job.run.kernels == "auto");
}

bool strict_numerics(const Job& job) {
  return names_gpu_kernels(job) ? job.run.kernels == "cuda" : job.run.numerics != "fast";
}

parallel::Degrees degrees_of(const Job& job) {
  const std::int64_t sequence = job.parallel.sequence.value_or(1), tensor = job.parallel.tensor.value_or(1);
  if (sequence * tensor * job.parallel.replicas.value_or(1) > kMostRanks)
    throw BadInput(
        fmt::format("parallel.replicas, sequence and tensor ask for more than {} ranks", kMostRanks),
        "ranks = replicas x sequence x tensor; start one per GPU or CPU socket");
  return {static_cast<int>(sequence), static_cast<int>(tensor)};
}

std::string Geometry::text() const {
  const auto counted = [](int n, const char* thing) {
    return fmt::format("{} {}{}", n, thing, n == 1 ? "" : "s");
  };
  if (degrees.ranks() == 1) return counted(ranks, "rank");
  return fmt::format("{} = {} x ({})", counted(ranks, "rank"), counted(replicas, "replica"),
                     shape_of(degrees));
}

void check_device(const Job& job, const Machine& machine) {
  const bool gpu_kernels = names_gpu_kernels(job);
  if (job.run.device != "auto" && job.run.kernels != "auto" && gpu_kernels != (job.run.device == "cuda"))
    throw BadInput(
        fmt::format("run.device = \"{}\", but \"{}\" kernels are for {}", job.run.device, job.run.kernels,
                    gpu_kernels ? "GPUs" : "CPUs"),
        "leave one of the two at \"auto\"; a job that has begun keeps its kernels until --restart");
  if (needs_gpus(job) && machine.gpus == 0)
    throw BadInput(
        "the job asks for GPUs, but there is none that this build can use",
        "nightshift --version shows what is compiled in; run.device = \"cpu\" runs here, a job that "
        "has begun on GPUs with --restart only");
}

Geometry resolve_geometry(const Job& job, int ranks, const Machine& machine) {
  if (ranks < 0 || ranks > kMostRanks)
    throw BadInput(fmt::format("--ranks {}", ranks), "a positive number, or 0 for automatic");
  check_device(job, machine);
  Geometry g;
  g.degrees = degrees_of(job);
  g.replicas = replicas_of(job, ranks, g.degrees, machine);
  g.ranks = g.replicas * g.degrees.ranks();
  share_cores(g, job.run.threads, machine);
  return g;
}

std::string LaunchCommand::text() const {
  std::string out;
  for (const auto& [name, value] : environment) out += fmt::format("{}={} ", name, shell_quoted(value));
  for (const std::string& word : argv) out += shell_quoted(word) + " ";
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
