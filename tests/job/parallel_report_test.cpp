// SPDX-License-Identifier: Apache-2.0
// How the report tells of ranks that worked together: 2 replicas of 2 ranks, made up.
#include <nlohmann/json.hpp>

#include "job/support.h"
#include "parallel/layout/shift_policy.h"
#include "runtime/job/finalize.h"
#include "runtime/job/report.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMiB = 1 << 20;
const parallel::Calibration kCalibration{.base = {.fixed = 0.002, .per_token = 1e-6, .per_key = 5e-10},
                                         .shift = {.fixed = 0.001, .per_token = 3e-6, .per_key = 5e-10}};

// The leader of a replica counts steps; the first rank of the host counts what the host has.
RunCounters rank_of(int rank) {
  RunCounters c;
  c.compute_seconds = 6.0;
  c.idle_seconds = rank < 2 ? 0.5 : 1.5;
  c.load_seconds = rank == 3 ? 4.0 : 2.0;
  c.load_bytes = 250'000'000;
  c.weight_bytes_per_rank = 40 * kMiB;
  c.traffic["qkv exchange"] = {.bytes = 8 * kMiB, .calls = 100, .seconds = 0.5};
  c.traffic["reduction"] = {.bytes = 16 * kMiB, .calls = 50, .seconds = 0.25};
  c.traffic["embedding"] = {};
  if (rank % 2 == 0) {
    c.layout_steps = {30, 20};
    c.layout_tokens = {12000, 400};
    c.layout_seconds = {4.0, 2.0};
    c.shifts = 7;
  }
  if (rank == 0) {
    c.weight_bytes = 50 * kMiB;
    c.host_pss_bytes = 90 * kMiB;
  }
  return c;
}

RunRecord start_of(int number, double seconds) {
  RunRecord run;
  run.number = number;
  run.seconds = seconds;
  run.ranks = 4;
  run.threads = 1;
  run.replicas = run.sequence = 2;
  run.shift = "auto: base above 500 tokens (+-10 %)";
  run.calibration = kCalibration.to_json();
  run.reduction_shards = kReductionShards;
  run.kernel_set = "portable";
  run.hosts = {"node1"};
  for (int rank = 0; rank < run.ranks; ++rank) {
    run.per_rank.push_back(rank_of(rank));
    run.total.add(run.per_rank.back());
  }
  return run;
}

RunRecord single_rank() {
  RunRecord run = start_of(1, 10.0);
  run.ranks = run.replicas = run.sequence = 1;
  run.per_rank.resize(1);
  run.total = run.per_rank[0];
  return run;
}

json summary_of(const std::vector<RunRecord>& runs) {
  return json::parse(summary_to_json(Job(), AnswerTotals(), runs, io::JournalHealth(), true));
}

std::string text_of(const std::vector<RunRecord>& runs) {
  json provenance{{"runs", json::array()}};
  for (const RunRecord& run : runs) provenance["runs"].push_back(json::parse(run.to_json()));
  return report_text(summary_of(runs).dump(), provenance.dump());
}

TEST(ParallelReport, SumsAreOverRanksAndSharesAreOfRankTime) {
  const json s = summary_of({start_of(1, 10.0), start_of(2, 10.0)});
  const json& p = s.at("parallel");
  EXPECT_EQ(p["ranks"], 4);
  EXPECT_EQ(p["replicas"], 2);
  EXPECT_EQ(p["sequence"], 2);
  EXPECT_EQ(p["tensor"], 1);
  EXPECT_EQ(p["hosts"], 1);
  EXPECT_EQ(p["layouts"]["base"], (json{{"steps", 120}, {"tokens", 48000}, {"seconds", 16.0}}));
  EXPECT_EQ(p["layouts"]["shift"]["steps"], 80);
  EXPECT_EQ(p["shifts"], 28);
  const json& reduction = p["traffic"]["reduction"];  // 2 starts of 4 ranks, 80 s of rank time
  EXPECT_EQ(reduction["bytes"], 8 * 16 * kMiB);
  EXPECT_EQ(reduction["calls"], 400);
  EXPECT_DOUBLE_EQ(reduction["share_of_rank_time"], 8 * 0.25 / 80);
  EXPECT_EQ(p["weight_bytes_per_host"], 50 * kMiB);
  EXPECT_EQ(p["weight_bytes_per_rank"], 40 * kMiB);
  EXPECT_EQ(p["pss_bytes_per_host"], 90 * kMiB);
  EXPECT_EQ(p["idle_share_per_replica"], (json{0.05, 0.15}));
  EXPECT_DOUBLE_EQ(s["utilization"]["idle_share"], 0.1);
  EXPECT_EQ(p["calibration"]["shift"]["fixed"], 0.001);
}

TEST(ParallelReport, LoadingIsTimedByTheSlowestRankOfAStart) {
  const json use = summary_of({start_of(1, 10.0), start_of(2, 10.0)}).at("utilization");
  EXPECT_DOUBLE_EQ(use["load_seconds"], 8.0);
  EXPECT_EQ(use["load_bytes"], 2'000'000'000);
  EXPECT_DOUBLE_EQ(use["load_bytes_per_s"], 2.5e8);
}

TEST(ParallelReport, TextNamesGeometryLayoutsWeightsAndTraffic) {
  const std::string text = text_of({start_of(1, 10.0)});
  for (const char* part :
       {"complete, 4 ranks x 1 thread, portable kernels", "Parallel\n",
        "4 ranks = 2 replicas x (sequence 2 x tensor 1) on 1 host\n",
        "auto: base above 500 tokens (+-10 %); 14 changes of layout", "base 2 ms + 1 us/token + 0.5 ns/key",
        "60 steps, 24,000 tokens in 8.00 s: 3,000 tokens/s",
        "50.0 MiB once per host, 40.0 MiB of it used by a rank", "90.0 MiB per host",
        "953.7 MiB read in 4.00 s: 0.25 GB/s", "10.0 % of rank time, 15.0 % in the replica with the most"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in\n" << text;
  const std::size_t reduction = text.find("  reduction"), exchange = text.find("  qkv exchange");
  EXPECT_LT(reduction, exchange) << "the larger first\n" << text;
  EXPECT_NE(text.substr(reduction).find("64.0 MiB        200     1.00 s         2.5 %"), std::string::npos)
      << text;
  EXPECT_EQ(text.find("embedding"), std::string::npos) << "kinds that never occurred are left out\n" << text;
  EXPECT_EQ(text.find("events"), std::string::npos) << text;
}

TEST(ParallelReport, DroppedTraceEventsAreTold) {
  RunRecord run = start_of(1, 10.0);
  run.total.trace_events_dropped = 12345;
  EXPECT_NE(text_of({run}).find("12,345 events"), std::string::npos);
}

TEST(ParallelReport, ReplicasOfOneRankHaveNoLayouts) {
  RunRecord run = start_of(1, 10.0);
  run.replicas = 4;
  run.sequence = 1;
  run.calibration.clear();
  run.total.traffic.clear();
  const json s = summary_of({run});
  EXPECT_EQ(s["parallel"]["idle_share_per_replica"], (json{0.05, 0.05, 0.15, 0.15}));
  EXPECT_TRUE(s["parallel"]["calibration"].is_null());
  const std::string text = text_of({run});
  EXPECT_NE(text.find("4 ranks on 1 host"), std::string::npos) << text;
  for (const char* part : {"shift", "layout", "Communication"})
    EXPECT_EQ(text.find(std::string("  ") + part), std::string::npos) << part << " in\n" << text;
}

TEST(ParallelReport, ASingleRankHasNone) {
  EXPECT_FALSE(summary_of({single_rank()}).contains("parallel"));
  EXPECT_EQ(text_of({single_rank()}).find("Parallel"), std::string::npos);
  EXPECT_TRUE(summary_of({start_of(1, 10.0), single_rank()}).contains("parallel")) << "an earlier start had";
}

class ParallelResult : public test::ScratchJob {};

TEST_F(ParallelResult, ProvenanceSaysHowTheAnswersWereComputed) {
  start();
  commit(0, 1000);
  Session(job_).write_run(start_of(1, 10.0));
  const json provenance = json::parse(finalize(job_).report.provenance);
  const json& run = provenance.at("runs").at(0);
  EXPECT_EQ(run["replicas"], 2);
  EXPECT_EQ(run["sequence"], 2);
  EXPECT_EQ(run["tensor"], 1);
  EXPECT_EQ(run["reduction_shards"], 8);
  EXPECT_EQ(run["shift"], "auto: base above 500 tokens (+-10 %)");
  EXPECT_EQ(run["calibration"]["base"]["fixed"], 0.002);
  EXPECT_EQ(run["total"]["traffic"]["reduction"]["calls"], 200);
  EXPECT_FALSE(run["total"].contains("step")) << "latency buckets stay out";
}

}  // namespace
}  // namespace nightshift::runtime
