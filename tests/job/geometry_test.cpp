// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/geometry.h"

#include <algorithm>

#include "job/support.h"

namespace nightshift::runtime {
namespace {

Machine machine_with(int cores, int sockets) {
  Machine machine;
  machine.cores = cores;
  machine.sockets = sockets;
  return machine;
}

std::string after(const LaunchCommand& command, const std::string& word) {
  const auto found = std::find(command.argv.begin(), command.argv.end(), word);
  return found == command.argv.end() || found + 1 == command.argv.end() ? "" : *(found + 1);
}

bool has(const LaunchCommand& command, const std::string& word) {
  return std::find(command.argv.begin(), command.argv.end(), word) != command.argv.end();
}

TEST(Geometry, OneRankPerSocketByDefaultWithAllItsCores) {
  const Geometry g = resolve_geometry(Job(), 0, machine_with(64, 2));
  EXPECT_EQ(g.ranks, 2);
  EXPECT_EQ(g.threads, 32);
  EXPECT_TRUE(g.bound);
  EXPECT_EQ(resolve_geometry(Job(), 0, machine_with(2, 1)).ranks, 1);
}

TEST(Geometry, OneRankPerGpuWhereThereAreAny) {
  Machine machine = machine_with(64, 2);
  machine.gpus = 4;
  EXPECT_EQ(resolve_geometry(Job(), 0, machine).ranks, 4);
  EXPECT_EQ(resolve_geometry(Job(), 0, machine).threads, 16);
}

TEST(Geometry, MoreRanksThanCoresAreNotBound) {
  const Geometry g = resolve_geometry(Job(), 4, machine_with(2, 1));
  EXPECT_EQ(g.ranks, 4);
  EXPECT_EQ(g.threads, 1);
  EXPECT_FALSE(g.bound);
}

TEST(Geometry, TheJobMayFixThreadsAndReplicas) {
  Job job;
  job.run.threads = 3;
  job.parallel.replicas = 2;
  const Geometry g = resolve_geometry(job, 0, machine_with(8, 1));
  EXPECT_EQ(g.ranks, 2);
  EXPECT_EQ(g.threads, 3);
  EXPECT_THROW(resolve_geometry(job, 3, machine_with(8, 1)), BadInput);
  EXPECT_EQ(resolve_geometry(job, 2, machine_with(8, 1)).ranks, 2);
}

Job job_with(std::optional<int> replicas, int sequence, int tensor) {
  Job job;
  if (replicas) job.parallel.replicas = *replicas;
  job.parallel.sequence = sequence;
  job.parallel.tensor = tensor;
  return job;
}

TEST(Geometry, RanksAreReplicasTimesDegrees) {
  const Machine machine = machine_with(16, 1);
  const Geometry four = resolve_geometry(job_with({}, 2, 1), 4, machine);
  EXPECT_EQ(four.replicas, 2);
  EXPECT_EQ(four.degrees, (parallel::Degrees{.sequence = 2, .tensor = 1}));
  EXPECT_EQ(four.text(), "4 ranks = 2 replicas x (sequence 2 x tensor 1)");
  const Geometry twelve = resolve_geometry(job_with(3, 2, 2), 0, machine);
  EXPECT_EQ(twelve.ranks, 12);
  EXPECT_EQ(twelve.ranks_per_node, 12);
  EXPECT_EQ(resolve_geometry(job_with(3, 2, 2), 12, machine).ranks, 12);
  EXPECT_EQ(resolve_geometry(job_with(1, 1, 4), 0, machine).text(),
            "4 ranks = 1 replica x (sequence 1 x tensor 4)");
  EXPECT_EQ(resolve_geometry(Job(), 2, machine).text(), "2 ranks");
  EXPECT_EQ(resolve_geometry(Job(), 1, machine).text(), "1 rank");
}

TEST(Geometry, WhereNobodySaysHowManyThereAreWholeReplicas) {
  EXPECT_EQ(resolve_geometry(job_with({}, 4, 1), 0, machine_with(8, 1)).ranks, 4);  // one socket
  EXPECT_EQ(resolve_geometry(job_with({}, 1, 2), 0, machine_with(64, 4)).ranks, 4);
  EXPECT_EQ(resolve_geometry(job_with({}, 3, 1), 0, machine_with(64, 4)).ranks, 3);
}

TEST(Geometry, BrokenReplicasAreRefusedWithTheNearestNumbers) {
  const auto refusal = [](const Job& job, int ranks, const Machine& machine) {
    return test::message_of([&] { resolve_geometry(job, ranks, machine); });
  };
  Machine machine = machine_with(16, 1);
  const std::string seven = refusal(job_with({}, 2, 2), 7, machine);
  EXPECT_NE(seven.find("--ranks 7: no whole number of replicas of 4 ranks"), std::string::npos) << seven;
  EXPECT_NE(seven.find("take 4 or 8 ranks"), std::string::npos) << seven;
  EXPECT_NE(refusal(job_with({}, 2, 2), 3, machine).find("take 4 ranks"), std::string::npos);
  EXPECT_NE(
      refusal(job_with(2, 2, 1), 2, machine).find("contradicts parallel.replicas = 2, which takes 4 ranks"),
      std::string::npos);
  machine.slurm = Slurm{.nodes = 1, .tasks = 6};
  EXPECT_NE(refusal(job_with({}, 4, 1), 0, machine).find("SLURM_NTASKS = 6"), std::string::npos);
  EXPECT_NE(refusal(job_with(1'000'000, 1'000'000, 1'000'000), 0, machine).find("more than 1000000 ranks"),
            std::string::npos);
}

TEST(Geometry, RefusesWhatThisVersionCannotRun) {
  Job cuda;
  cuda.run.device = "cuda";
  EXPECT_THROW(resolve_geometry(cuda, 0, machine_with(8, 1)), BadInput);
  cuda.run.device = "auto";
  cuda.run.kernels = "cuda_fast";
  EXPECT_THROW(resolve_geometry(cuda, 0, machine_with(8, 1)), BadInput) << "a job that began on GPUs";
  cuda.run.device = "cpu";
  Machine with_gpus = machine_with(8, 1);
  with_gpus.gpus = 4;
  EXPECT_THROW(resolve_geometry(cuda, 0, with_gpus), BadInput) << "GPU kernels on a CPU";
  cuda.run.device = "cuda";
  cuda.run.kernels = "portable";
  EXPECT_THROW(resolve_geometry(cuda, 0, with_gpus), BadInput) << "CPU kernels on a GPU";
  EXPECT_THROW(resolve_geometry(Job(), -1, machine_with(8, 1)), BadInput);
}

TEST(Geometry, AnAllocationSaysHowManyRanks) {
  Machine machine = machine_with(16, 1);
  machine.slurm = Slurm{.nodes = 4, .tasks = 8, .cpus_per_task = 5, .has_srun = true, .has_pmix = true};
  const Geometry g = resolve_geometry(Job(), 0, machine);
  EXPECT_EQ(g.ranks, 8);
  EXPECT_EQ(g.ranks_per_node, 2);
  EXPECT_EQ(g.threads, 5);
  machine.slurm->tasks.reset();
  EXPECT_EQ(resolve_geometry(Job(), 0, machine).ranks, 4);
}

TEST(LaunchCommand, BindsRanksToCoresOfTheirOwn) {
  const Machine machine = machine_with(8, 1);
  const LaunchCommand command =
      launch_command(resolve_geometry(Job(), 2, machine), machine, "/bin/rank", "/tmp/a b");
  EXPECT_EQ(command.argv.front(), "mpirun");
  EXPECT_EQ(after(command, "-np"), "2");
  EXPECT_EQ(after(command, "--map-by"), "slot:PE=4");
  EXPECT_FALSE(has(command, "--oversubscribe"));
  EXPECT_EQ(command.environment.at("OMP_NUM_THREADS"), "4");
  EXPECT_EQ(command.environment.at("OMP_WAIT_POLICY"), "passive");
  EXPECT_EQ(command.environment.count("OMPI_ALLOW_RUN_AS_ROOT"), 0u);
  EXPECT_TRUE(command.text().ends_with(" /bin/rank '/tmp/a b'")) << command.text();
}

TEST(LaunchCommand, OversubscribedRanksFloat) {
  Machine machine = machine_with(2, 1);
  machine.root = true;
  const LaunchCommand command = launch_command(resolve_geometry(Job(), 4, machine), machine, "rank", "dir");
  EXPECT_TRUE(has(command, "--oversubscribe"));
  EXPECT_EQ(after(command, "--bind-to"), "none");
  EXPECT_EQ(command.environment.at("OMPI_ALLOW_RUN_AS_ROOT"), "1");
}

TEST(LaunchCommand, SrunInsideAnAllocationThatCanStartMpi) {
  Machine machine = machine_with(16, 1);
  machine.slurm = Slurm{.nodes = 2, .has_srun = true, .has_pmix = true};
  const LaunchCommand command = launch_command(resolve_geometry(Job(), 0, machine), machine, "rank", "dir");
  EXPECT_EQ(command.argv.front(), "srun");
  EXPECT_TRUE(has(command, "--mpi=pmix"));
  EXPECT_TRUE(has(command, "--distribution=block")) << "ranks of a replica share a node";
  EXPECT_EQ(after(command, "--ntasks"), "2");
  EXPECT_EQ(after(command, "--cpus-per-task"), "16");
  machine.slurm->has_pmix = false;
  EXPECT_EQ(launch_command(resolve_geometry(Job(), 0, machine), machine, "rank", "dir").argv.front(),
            "mpirun");
}

TEST(Machine, ProbeFindsAtLeastWhatRunsThisTest) {
  const Machine machine = probe_machine();
  EXPECT_GE(machine.cores, 1);
  EXPECT_GE(machine.sockets, 1);
  EXPECT_LE(machine.sockets, machine.cores);
  EXPECT_GT(machine.memory_bytes, 1u << 20);
}

TEST(Geometry, GpusCountOnlyWhereTheJobMayUseThem) {
  Machine machine = machine_with(8, 2);
  machine.gpus = 4;
  Job job;
  EXPECT_EQ(resolve_geometry(job, 0, machine).ranks, 4);
  job.run.device = "cpu";
  EXPECT_EQ(resolve_geometry(job, 0, machine).ranks, 2) << "one per socket";
  job.run.device = "auto";
  job.run.kernels = "avx512_bf16";
  EXPECT_EQ(resolve_geometry(job, 0, machine).ranks, 2);
  job.run.kernels = "cuda";
  EXPECT_EQ(resolve_geometry(job, 0, machine).ranks, 4);
}

TEST(Numerics, AreStrictUnlessTheJobSaysFast) {
  Job job;
  EXPECT_TRUE(strict_numerics(job));
  job.run.numerics = "fast";
  EXPECT_FALSE(strict_numerics(job));
  job.run.kernels = "cuda";  // of a job that has begun
  EXPECT_TRUE(strict_numerics(job));
  job.run.kernels = "cuda_fast";
  job.run.numerics = "auto";
  EXPECT_FALSE(strict_numerics(job));
}

}  // namespace
}  // namespace nightshift::runtime
