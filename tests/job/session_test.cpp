// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/session.h"

#include <algorithm>
#include <fstream>
#include <random>

#include "job/support.h"

namespace nightshift::runtime {
namespace {

namespace fs = std::filesystem;
using test::ScratchJob;

double exact_quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(values.size())));
  return values[std::max<std::size_t>(rank, 1) - 1];
}

TEST(LatencySketch, QuantilesAreWithinOnePercentOverSixDecades) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> latency(-4.0, 2.5);
  LatencySketch sketch;
  std::vector<double> values;
  double sum = 0;
  for (int i = 0; i < 100000; ++i) {
    values.push_back(latency(random));
    sketch.add(values.back());
    sum += values.back();
  }
  for (const double q : {0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const double exact = exact_quantile(values, q);
    EXPECT_NEAR(sketch.quantile(q), exact, 0.0105 * exact) << q;
  }
  EXPECT_EQ(sketch.max(), *std::max_element(values.begin(), values.end()));
  EXPECT_NEAR(sketch.mean(), sum / 100000, 1e-9 * sum);
}

TEST(LatencySketch, MergingIsTheSameAsOneSketchOfAll) {
  std::mt19937_64 random(2);
  std::exponential_distribution<double> latency(3.0);
  LatencySketch all;
  LatencySketch parts[3];
  for (int i = 0; i < 3000; ++i) {
    const double value = latency(random);
    all.add(value);
    parts[i % 3].add(value);
  }
  parts[0].merge(parts[1]);
  parts[0].merge(LatencySketch::from_json(parts[2].to_json()));
  EXPECT_EQ(parts[0].count(), all.count());
  for (const double q : {0.1, 0.5, 0.99}) EXPECT_EQ(parts[0].quantile(q), all.quantile(q));
}

TEST(LatencySketch, EmptyAndZeroAreHarmless) {
  LatencySketch sketch;
  EXPECT_EQ(sketch.quantile(0.5), 0.0);
  EXPECT_EQ(sketch.mean(), 0.0);
  sketch.add(0.0, 5);
  EXPECT_EQ(sketch.count(), 5u);
  EXPECT_LE(sketch.quantile(0.5), 1e-9);
}

RunCounters some_counters() {
  RunCounters counters;
  counters.prompts_done = 7;
  counters.compute_seconds = 1.25;
  counters.preemptions = 3;
  counters.end_to_end.add(0.5, 7);
  counters.layout_steps = {3, 5};
  counters.layout_seconds = {0.25, 0.5};
  counters.traffic["reduction"] = {.bytes = 100, .calls = 2, .seconds = 0.125};
  return counters;
}

TEST(RunCounters, SurviveJsonAndAddUpFieldByField) {
  RunCounters sum = RunCounters::from_json(some_counters().to_json());
  sum.add(some_counters());
  EXPECT_EQ(sum.prompts_done, 14u);
  EXPECT_EQ(sum.compute_seconds, 2.5);
  EXPECT_EQ(sum.preemptions, 6u);
  EXPECT_EQ(sum.end_to_end.count(), 14u);
  EXPECT_EQ(sum.layout_steps, (std::array<std::uint64_t, 2>{6, 10}));
  EXPECT_EQ(sum.layout_seconds, (std::array<double, 2>{0.5, 1.0}));
  EXPECT_EQ(sum.traffic.at("reduction"), (TrafficTotal{.bytes = 200, .calls = 4, .seconds = 0.25}));
  EXPECT_EQ(RunCounters::from_json(sum.to_json()).to_json(), sum.to_json());
}

TEST(RunCounters, KindsOfTrafficThatOneSideLacksAreKept) {
  RunCounters sum = some_counters(), other;
  other.traffic["orders"] = {.bytes = 7, .calls = 1, .seconds = 0.5};
  sum.add(other);
  EXPECT_EQ(sum.traffic.size(), 2u);
  EXPECT_EQ(sum.traffic.at("orders").bytes, 7u);
  EXPECT_EQ(sum.traffic.at("reduction").bytes, 100u);
}

TEST(RunCounters, RefuseDamagedRecords) {
  EXPECT_THROW(RunCounters::from_json("{}"), Error);
  EXPECT_THROW(RunRecord::from_json("{\"number\": "), Error);
  EXPECT_THROW(Status::from_json("[]"), Error);
}

class SessionTest : public ScratchJob {};

TEST_F(SessionTest, StatusRunsAndJobComeBackAsTheyWere) {
  start();
  const Session session(job_);
  EXPECT_FALSE(session.read_status());
  Status status;
  status.state = "running";
  status.done = 12;
  status.eta_seconds = 3.5;
  status.note = "with \"quotes\" and ünïcode";
  session.write_status(status);
  EXPECT_EQ(session.read_status()->to_json(), status.to_json());

  record_start(2, 4.0, "");
  record_start(1, 3.0, "SIGTERM");
  const std::vector<RunRecord> runs = session.read_runs();
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].number, 1);
  EXPECT_EQ(runs[0].stopped_by, "SIGTERM");
  EXPECT_EQ(runs[1].total.model_flops, 2e9);
  EXPECT_EQ(job_to_json(session.read_job()), job_to_json(job_));
}

TEST_F(SessionTest, TheClockIsFixedByTheFirstStart) {
  start();
  const Session session(job_);
  const std::int64_t first = session.started_unix();
  std::ofstream(session.dir() / "started") << first - 1000;
  EXPECT_EQ(Session(job_).started_unix(), first - 1000);
}

TEST_F(SessionTest, WritesLeaveNoTemporaryFileAndSayWhyTheyFail) {
  start();
  const Session session(job_);
  const auto files = [&] {
    return std::distance(fs::directory_iterator(session.dir()), fs::directory_iterator());
  };
  session.write_status({});
  const auto before = files();
  session.write_status({});
  EXPECT_EQ(files(), before);
  const std::string message = test::message_of([&] { Session(dir_ / "no").write_status({}); });
  EXPECT_NE(message.find("No such file"), std::string::npos) << message;
}

TEST_F(SessionTest, JsonLinesAreReadFromTheJournalFolder) {
  const Session session(job_);
  EXPECT_EQ(session.prompts_file(job_), job_.job.input);
  job_.job.input = "requests.jsonl";
  EXPECT_EQ(session.prompts_file(job_), job_.journal_dir() / "input.h5");
}

}  // namespace
}  // namespace nightshift::runtime
