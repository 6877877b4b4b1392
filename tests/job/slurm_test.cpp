// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/slurm.h"

#include <cstdlib>
#include <map>

#include "job/support.h"
#include "runtime/job/geometry.h"

namespace nightshift::runtime {
namespace {

using Counts = std::vector<int>;

std::optional<Slurm> allocation(const std::map<std::string, std::string>& variables) {
  return read_allocation([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

// Puts the process into another time zone for a test.
class Zone {
 public:
  explicit Zone(const char* name) {
    ::setenv("TZ", name, 1);
    ::tzset();
  }
  ~Zone() {
    ::unsetenv("TZ");
    ::tzset();
  }
};

TEST(Slurm, CountsOfNodes) {
  EXPECT_EQ(parse_counts("2"), (Counts{2}));
  EXPECT_EQ(parse_counts("4(x2),3"), (Counts{4, 4, 3}));
  EXPECT_EQ(parse_counts("1,2(x3),1"), (Counts{1, 2, 2, 2, 1}));
}

TEST(Slurm, MalformedCountsAreNone) {
  for (const char* text :
       {"", "x", ",2", "0", "-1", "2(x)", "2(x0)", "2(x3", "2(3)", "2 (x3)", "(x3)", "2(x-3)", "1000001",
        "1(x1000001)", "1(x99999999999999999999)", "4(x999999),2(x2)"})
    EXPECT_EQ(parse_counts(text), Counts()) << text;
}

TEST(Slurm, EndTime) {
  EXPECT_EQ(parse_end_time("1795265288"), 1795265288);
  EXPECT_EQ(parse_end_time("1795265288\n"), 1795265288) << "as squeue prints it";
  for (const char* text :
       {"", "\n", "NONE", "Unknown", "N/A", "0", "-5", "12:00", "2026-11-21", "2026-11-21T12:44:25x"})
    EXPECT_EQ(parse_end_time(text), std::nullopt) << text;
}

TEST(Slurm, EndTimeOnTheClockOfTheNode) {
  {
    const Zone utc("UTC");
    EXPECT_EQ(parse_end_time("2026-11-21T12:44:25"), 1795265065);
  }
  const Zone india("IST-5:30");
  EXPECT_EQ(parse_end_time("2026-11-21T18:14:25"), 1795265065);
}

TEST(Slurm, EndTimeIsAskedForNumbersOnly) {
  EXPECT_NE(end_time_query("42").find("--jobs=42 "), std::string::npos);
  for (const char* id : {"", "42; rm -r .", "$(id)", "-1"}) EXPECT_EQ(end_time_query(id), "") << id;
}

TEST(Slurm, DeviceOfRank) {
  EXPECT_EQ(device_of_rank("0,1,2,3", 2), "2");
  EXPECT_EQ(device_of_rank("4,6", 1), "6") << "those of the list, not those of the node";
  EXPECT_EQ(device_of_rank("GPU-5f, MIG-2a", 1), "MIG-2a");
  EXPECT_EQ(device_of_rank("0,1", 3), "1") << "more ranks than devices share them";
  EXPECT_EQ(device_of_rank("3", 0), "") << "no choice";
  EXPECT_EQ(device_of_rank("", 0), "");
  EXPECT_EQ(device_of_rank("0,1", -1), "") << "no launcher";
}

TEST(Slurm, NoAllocationWithoutAJob) {
  EXPECT_FALSE(allocation({{"SLURM_NTASKS", "4"}, {"SLURM_CONF", "/etc/slurm/slurm.conf"}}));
}

TEST(Slurm, AllocationAsTheUserAskedForIt) {
  const auto slurm = allocation({{"SLURM_JOB_ID", "7"},
                                 {"SLURM_JOB_NUM_NODES", "3"},
                                 {"SLURM_NTASKS", "5"},
                                 {"SLURM_TASKS_PER_NODE", "2(x2),1"},
                                 {"SLURM_CPUS_PER_TASK", "8"},
                                 {"SLURM_JOB_CPUS_PER_NODE", "16(x3)"},
                                 {"SLURM_GPUS_ON_NODE", "2"},
                                 {"SLURMD_NODENAME", "n1"},
                                 {"SLURM_JOB_END_TIME", "1795265288"}});
  ASSERT_TRUE(slurm);
  EXPECT_EQ(slurm->nodes, 3);
  EXPECT_EQ(slurm->tasks, 5);
  EXPECT_EQ(slurm->cpus_per_task, 8);
  EXPECT_EQ(slurm->tasks_on_node, (Counts{2, 2, 1}));
  EXPECT_EQ(slurm->cpus_on_node, (Counts{16, 16, 16}));
  EXPECT_EQ(slurm->gpus_on_node, 2);
  EXPECT_TRUE(slurm->on_a_node);
  EXPECT_EQ(slurm->end_time, 1795265288);
}

TEST(Slurm, TasksThatNobodyAskedForAreCores) {
  const auto slurm =
      allocation({{"SLURM_JOB_ID", "7"}, {"SLURM_JOB_NUM_NODES", "2"}, {"SLURM_TASKS_PER_NODE", "64(x2)"}});
  ASSERT_TRUE(slurm);
  EXPECT_EQ(slurm->tasks, std::nullopt);
  EXPECT_TRUE(slurm->tasks_on_node.empty());
  EXPECT_FALSE(slurm->on_a_node);
  EXPECT_EQ(slurm->end_time, std::nullopt);
}

TEST(Slurm, UnevenTasksCountOnTheFullestNode) {
  Machine machine;
  machine.cores = 16;
  machine.slurm = Slurm{.nodes = 2, .tasks = 5, .tasks_on_node = {4, 1}, .cpus_on_node = {16, 4}};
  const Geometry g = resolve_geometry(Job(), 0, machine);
  EXPECT_EQ(g.ranks, 5);
  EXPECT_EQ(g.ranks_per_node, 4);
  EXPECT_EQ(g.threads, 4);
  EXPECT_TRUE(g.bound);
}

TEST(Slurm, FewerCoresOnOneNodeBindNoRankTwice) {
  Machine machine;
  machine.cores = 16;
  machine.slurm = Slurm{.nodes = 2, .cpus_on_node = {16, 4}};
  EXPECT_EQ(resolve_geometry(Job(), 4, machine).threads, 2) << "two ranks on the node with four cores";
}

TEST(Slurm, RanksLearnTheEndOfTheAllocation) {
  Machine machine;
  machine.cores = 1;
  machine.slurm = Slurm{.has_srun = true, .has_pmix = true, .end_time = 1795265288};
  for (const bool pmix : {true, false}) {
    machine.slurm->has_pmix = pmix;
    const LaunchCommand command = launch_command(resolve_geometry(Job(), 2, machine), machine, "rank", "dir");
    EXPECT_EQ(command.environment.at("SLURM_JOB_END_TIME"), "1795265288");
    EXPECT_EQ(command.environment.at("OMPI_MCA_mpi_yield_when_idle"), "1") << "two ranks on one core";
    EXPECT_EQ(command.text().find("-x SLURM_JOB_END_TIME") != std::string::npos, !pmix)
        << "mpirun passes what it is told to";
  }
  machine.slurm->end_time = std::nullopt;
  const LaunchCommand command = launch_command(resolve_geometry(Job(), 1, machine), machine, "rank", "dir");
  EXPECT_EQ(command.environment.count("SLURM_JOB_END_TIME"), 0u);
}

TEST(Slurm, SeveralNodesNeedOneSidedCommunication) {
  Machine machine;
  machine.slurm = Slurm{.nodes = 2, .has_srun = true, .has_pmix = true};
  const auto chosen = [&](int ranks) {
    const auto environment =
        launch_command(resolve_geometry(Job(), ranks, machine), machine, "r", "d").environment;
    const auto found = environment.find("OMPI_MCA_osc");
    return found == environment.end() ? "" : found->second;
  };
  EXPECT_EQ(chosen(2), "^none");
  EXPECT_EQ(chosen(1), "") << "one node is enough for one rank";
  machine.one_sided_chosen = true;
  EXPECT_EQ(chosen(2), "");
}

}  // namespace
}  // namespace nightshift::runtime
