// SPDX-License-Identifier: Apache-2.0
#include "core/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace nightshift {
namespace {

using Clock = TraceLog::Clock;
using std::chrono::microseconds;
using std::chrono::nanoseconds;

nlohmann::json parse(const TraceLog& log, int replica = 0, int rank = 0) {
  return nlohmann::json::parse("[" + log.events_json(replica, rank) + "]");
}

TEST(TraceLog, EventsAreTraceEvents) {
  const Clock::time_point origin = Clock::now();
  TraceLog log(origin);
  log.add("compute", origin + microseconds(10), origin + nanoseconds(12345), 96);
  log.add("odd \"name\"\n", origin - microseconds(5), origin);
  const nlohmann::json events = parse(log, 3, 7);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(
      events[0],
      (nlohmann::json{{"name", "process_name"}, {"ph", "M"}, {"pid", 3}, {"args", {{"name", "replica 3"}}}}));
  EXPECT_EQ(
      events[1],
      (nlohmann::json{
          {"name", "thread_name"}, {"ph", "M"}, {"pid", 3}, {"tid", 7}, {"args", {{"name", "rank 7"}}}}));
  EXPECT_EQ(events[2]["name"], "compute");
  EXPECT_EQ(events[2]["ph"], "X");
  EXPECT_EQ(events[2]["pid"], 3);
  EXPECT_EQ(events[2]["tid"], 7);
  EXPECT_DOUBLE_EQ(events[2]["ts"].get<double>(), 10.0);
  EXPECT_DOUBLE_EQ(events[2]["dur"].get<double>(), 2.345);
  EXPECT_EQ(events[2]["args"]["tokens"], 96);
  EXPECT_EQ(events[3]["name"], "odd \"name\"\n");
  EXPECT_DOUBLE_EQ(events[3]["ts"].get<double>(), -5.0);
  EXPECT_FALSE(events[3].contains("args"));
}

TEST(TraceLog, AnEmptyLogStillNamesItsRow) {
  EXPECT_EQ(parse(TraceLog(Clock::now())).size(), 2u);
}

// The viewer stacks events of one row by time: one that sticks out of the one around it is drawn wrong.
TEST(TraceLog, InnerEventsLieWithinOuterOnes) {
  TraceLog log(Clock::now() - std::chrono::hours(24 * 30));  // a long job: large times, fine digits
  for (int i = 0; i < 200; ++i) {
    const TraceScope outer(&log, "step", i);
    const TraceScope inner(&log, "compute");
    { const TraceScope innermost(&log, "exchange"); }
  }
  const nlohmann::json events = parse(log);
  ASSERT_EQ(events.size(), 2u + 3 * 200);
  const auto ns = [](const nlohmann::json& us) { return std::llround(us.get<double>() * 1000); };
  for (std::size_t i = 2; i < events.size(); i += 3) {  // written when they end: innermost first
    EXPECT_EQ(events[i + 2]["name"], "step");
    for (std::size_t j = i; j < i + 2; ++j) {
      EXPECT_GE(ns(events[j]["ts"]), ns(events[j + 1]["ts"]));
      EXPECT_LE(ns(events[j]["ts"]) + ns(events[j]["dur"]),
                ns(events[j + 1]["ts"]) + ns(events[j + 1]["dur"]));
    }
  }
}

TEST(TraceLog, WhatDoesNotFitIsCountedAndSaid) {
  TraceLog log(Clock::now(), 10);
  for (int i = 0; i < 25; ++i) log.add("step", Clock::now(), Clock::now());
  EXPECT_EQ(log.dropped(), 15u);
  const nlohmann::json events = parse(log, 0, 4);
  EXPECT_EQ(events.size(), 12u);
  EXPECT_EQ(events[1]["args"]["name"], "rank 4 (15 events dropped)");
}

}  // namespace
}  // namespace nightshift
