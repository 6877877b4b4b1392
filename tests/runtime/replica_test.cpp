// SPDX-License-Identifier: Apache-2.0
// Leaders and followers over a made-up executor, on any number of ranks: all ranks of a replica plan the same
// steps, whatever travels.
#include "runtime/replica.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "runtime/follower.h"
#include "runtime/support.h"

namespace nightshift::runtime {
namespace {

using parallel::Communicator;

// Sums up everything that a plan says: what two ranks see of it is equal when this is.
class Digest {
 public:
  template <class T>
  void number(const T& value) {
    std::uint64_t bits = 0;
    static_assert(sizeof(T) <= sizeof bits);
    std::memcpy(&bits, &value, sizeof value);
    hash_ = (hash_ ^ bits) * 0x9e3779b97f4a7c15ULL;
    hash_ ^= hash_ >> 29;
  }
  template <class Range>
  void all(const Range& values) {
    number(values.size());
    for (const auto& value : values) number(value);
  }
  void params(const SamplingParams& p) {
    for (const std::int64_t value : {p.max_tokens, p.min_tokens, p.top_k, p.n, p.logprobs}) number(value);
    for (const double value :
         {p.temperature, p.top_p, p.min_p, p.repetition_penalty, p.presence_penalty, p.frequency_penalty})
      number(value);
    number(p.seed);
    number(p.own_seed);
    number(p.ignore_eos);
    all(p.stop_token_ids);
    number(p.stop.size());
    for (const std::string& text : p.stop) all(text);
  }
  void plan(const BatchPlan& plan) {
    number(plan.step);
    number(plan.tail);
    for (const PlannedSequence& s : plan.sequences) {
      number(s.id);
      number(s.computed);
      number(s.num_tokens);
      number(s.samples);
      number(s.random_key);
      all(s.tokens);
      all(s.blocks);
      params(*s.sampling);
    }
  }
  std::string text() const { return std::to_string(hash_); }

 private:
  std::uint64_t hash_ = 0;
};

// Answers of a length that depends on the sequence; remembers all plans.
class WatchedExecutor final : public AlphabetExecutor {
 public:
  WatchedExecutor() : AlphabetExecutor(0) {}
  void submit(const BatchPlan& plan) override {
    seen.plan(plan);
    tails += plan.tail;
    std::this_thread::sleep_for(std::chrono::microseconds(300));  // so that prompts are ready ahead of need
    AlphabetExecutor::submit(plan);
  }
  Digest seen;
  int tails = 0;

 protected:
  int length_of(const PlannedSequence& s) const override {
    return static_cast<int>((s.random_key >> 7) % 40) + 1;
  }
};

// Ranks in replicas of `size`.
struct Team {
  explicit Team(int size)
      : world(Communicator::world()),
        replica(world.split(world.rank() / size, world.rank())),
        leaders(world.split(replica.rank() == 0 ? 0 : 1, world.rank())) {}
  bool leads() const { return replica.rank() == 0; }

  Communicator world, replica, leaders;
};

std::vector<std::string> odd_prompts(int count) {
  std::mt19937 random(5);
  const std::vector<std::string> kinds{
      R"({"prompt":"hello"})",
      R"({"prompt":"x","n":3,"temperature":0.7,"seed":11})",
      R"({"prompt":"stop","stop":["CD","\u0000é"],"min_tokens":2})",
      R"({"prompt":"long","ignore_eos":true,"max_tokens":37,"logprobs":2})",
      R"({"prompt":"words","stop_token_ids":[67,68],"top_p":0.9,"min_p":0.01,"repetition_penalty":1.1})",
      R"({"prompt":"bad","temperature":-1})",
      "{\"prompt\":\"" + std::string(100, 'y') + "\"}"};
  std::vector<std::string> bodies;
  for (int i = 0; i < count; ++i) bodies.push_back(kinds[random() % kinds.size()]);
  return bodies;
}

void follow(const Communicator& ranks, scheduler::Executor& executor, const scheduler::Options& options,
            RunCounters& counters) {
  scheduler::Scheduler scheduler(options);
  double now = 0;
  Replica replica(ranks, scheduler, executor, counters, [&now] { return now += 0.001; });
  Follower(replica).run();
}

// All ranks of a replica have seen the same plans.
void expect_same_plans(const Team& team, const WatchedExecutor& executor) {
  const auto all = team.replica.gather(executor.seen.text());
  for (const std::string& one : all) EXPECT_EQ(one, all.front());
}

class ReplicaTest : public ::testing::TestWithParam<int> {  // steps in flight at once
 protected:
  static scheduler::Options few_options() {
    scheduler::Options options = small_options();
    options.pipeline_depth = GetParam();
    return options;
  }
  // One replica of all ranks.
  bool run(
      const Team& team, const Workplace& work, WatchedExecutor& executor, const scheduler::Options& options,
      std::function<bool()> tick = [] { return true; }) {
    if (!team.leads()) {
      follow(team.replica, executor, options, counters_);
      return true;
    }
    return lead(work, team.leaders, team.replica, executor, options, counters_, std::move(tick));
  }
  RunCounters counters_;
};

TEST_P(ReplicaTest, AllRanksPlanTheSameSteps) {
  const Team team(Communicator::world().size());
  const Workplace work("replica", team.world);
  work.write_prompts(odd_prompts(60));
  scheduler::Options options = few_options();
  options.max_sequences = 8;
  options.kv_blocks = 12;  // preempts
  WatchedExecutor executor;
  EXPECT_TRUE(run(team, work, executor, options));
  expect_same_plans(team, executor);
  EXPECT_GT(executor.steps, 50);
  EXPECT_GT(executor.tails, 0);  // the end of the input travels too
  if (!team.leads()) {
    EXPECT_EQ(counters_.output_tokens, 0u);  // what belongs to the replica is its leader's
    EXPECT_EQ(counters_.steps, 0u);
    EXPECT_EQ(counters_.step.count(), 0u);
    EXPECT_GT(counters_.compute_seconds, 0.0);
    return;
  }
  EXPECT_GT(counters_.preemptions, 0u);
  const auto rows = work.records();
  EXPECT_EQ(counters_.prompts_done + counters_.prompts_failed, rows.size());
  EXPECT_EQ(counters_.steps, static_cast<std::uint64_t>(executor.steps));
  for (const io::ResultRecord& row : rows) {
    if (row.finish_reason == FinishReason::failed) {
      EXPECT_EQ(row.error.rfind("bad_params", 0), 0u) << row.error;
    } else {
      EXPECT_FALSE(row.tokens.empty());
    }
  }
}

TEST_P(ReplicaTest, AnswersAreThoseOfOneRank) {
  const Team team(Communicator::world().size());
  const Workplace work("replica", team.world);
  work.write_prompts(odd_prompts(40));
  const scheduler::Options options = few_options();
  WatchedExecutor executor;
  run(team, work, executor, options);
  if (!team.leads()) return;
  const auto together = work.records();
  Workplace alone("alone");
  alone.write_prompts(odd_prompts(40));
  WatchedExecutor own;
  RunCounters counters;
  const Communicator self = Communicator::self();
  lead(alone, self, self, own, options, counters, [] { return true; });
  const auto one = alone.records();
  ASSERT_EQ(one.size(), together.size());
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].row, together[i].row);
    EXPECT_EQ(one[i].tokens, together[i].tokens);
    EXPECT_EQ(one[i].text, together[i].text);
  }
}

TEST_P(ReplicaTest, AStopEndsFollowersToo) {
  const Team team(Communicator::world().size());
  const Workplace work("replica", team.world);
  work.write_prompts(odd_prompts(60));
  WatchedExecutor executor;
  int ticks = 0;
  const bool complete = run(team, work, executor, few_options(), [&ticks] { return ++ticks < 30; });
  EXPECT_EQ(complete, !team.leads());
  expect_same_plans(team, executor);
}

TEST_P(ReplicaTest, AnEmptyInputEndsFollowersToo) {
  const Team team(Communicator::world().size());
  const Workplace work("replica", team.world);
  work.write_prompts({R"({"prompt":"x"})"});
  WatchedExecutor first, second;
  EXPECT_TRUE(run(team, work, first, few_options()));
  EXPECT_TRUE(run(team, work, second, few_options()));  // all committed
  EXPECT_EQ(second.steps, 0);
}

// What the engine does not order today: a request ends where it stands.
TEST_P(ReplicaTest, CancelledRequestsEndEverywhere) {
  const Team team(Communicator::world().size());
  WatchedExecutor executor;
  if (!team.leads()) {
    follow(team.replica, executor, few_options(), counters_);
    return expect_same_plans(team, executor);
  }
  scheduler::Scheduler scheduler(few_options());
  Replica replica(team.replica, scheduler, executor, counters_, [] { return 0.0; });
  for (SequenceId step = 1; step <= 30; ++step) {
    Orders orders;
    if (const auto result = replica.collect_due()) scheduler.commit(*result);
    if (step % 3 == 0 && scheduler.cancel(step / 3)) orders.cancel = {step / 3};
    orders.admitted.push_back({step, std::vector<TokenId>(step * 3, 70), {}, step << 9, {}});
    ASSERT_FALSE(scheduler.add(scheduler::Request(orders.admitted[0])));
    orders.end = step == 30;
    replica.send(orders);
    if (!orders.end) replica.advance();
  }
  expect_same_plans(team, executor);
}

// Followers wait, however long their leader has nothing to say.
TEST_P(ReplicaTest, ASilentLeaderIsWaitedFor) {
  const Team team(Communicator::world().size());
  const Workplace work("replica", team.world);
  work.write_prompts(odd_prompts(12));
  WatchedExecutor executor;
  int ticks = 0;
  EXPECT_TRUE(run(team, work, executor, few_options(), [&ticks] {
    if (++ticks % 5 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return true;
  }));
  expect_same_plans(team, executor);
}

TEST_P(ReplicaTest, ReplicasShareTheQueueAndAnswerEverythingOnce) {
  const int ranks = Communicator::world().size();
  const Team team(std::max(1, ranks / 2));
  const Workplace work("replica", team.world);
  work.write_prompts(odd_prompts(90));
  WatchedExecutor executor;
  if (team.leads()) {
    EXPECT_TRUE(
        lead(work, team.leaders, team.replica, executor, few_options(), counters_, [] { return true; }));
    if (ranks > 1) {
      EXPECT_GT(counters_.prompts_done, 15u);  // neither replica takes it all
    }
  } else {
    follow(team.replica, executor, few_options(), counters_);
  }
  expect_same_plans(team, executor);
  const double done = team.world.sum(static_cast<double>(counters_.prompts_done + counters_.prompts_failed));
  if (team.world.rank() != 0) return;
  EXPECT_EQ(static_cast<double>(work.records().size()), done);
  EXPECT_EQ(io::JournalIndex(work.journal(), 7).health().duplicates, 0u);
}

INSTANTIATE_TEST_SUITE_P(InFlight, ReplicaTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace nightshift::runtime
