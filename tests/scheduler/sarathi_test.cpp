// SPDX-License-Identifier: Apache-2.0
// Where the rules coincide (no prefix cache, no preemption, no tiles), our plans are those of the published
// algorithm as sarathi_reference.py makes them; also with prefill held back for bulk steps, written twice.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "scheduler/scheduler.h"

namespace nightshift::scheduler {
namespace {

struct Mix {
  std::string name;
  Options options;
  std::vector<std::pair<int, int>> requests;  // prompt, output tokens
  std::vector<std::string> steps;
};

std::vector<std::pair<int, int>> read_requests(std::istringstream& line) {
  std::vector<std::pair<int, int>> requests;
  char colon = 0;
  for (std::pair<int, int> r; line >> r.first >> colon >> r.second;) requests.push_back(r);
  return requests;
}

std::vector<Mix> read_mixes() {
  std::ifstream file(NIGHTSHIFT_SOURCE_DIR "/tests/scheduler/plans.golden");
  std::vector<Mix> mixes;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    if (kind == "mix") {
      Mix& mix = mixes.emplace_back();
      Options& o = mix.options;
      words >> mix.name >> o.token_budget >> o.max_sequences >> o.kv_blocks >> o.watermark;
      words >> o.prefill_group >> o.prefill_patience;
      o.max_context = 500;
      o.prefix_cache = false;
      o.tile = 1;
    } else if (kind == "requests") {
      mixes.back().requests = read_requests(words);
    } else if (kind == "step") {
      mixes.back().steps.push_back(line.substr(5));
    }
  }
  return mixes;
}

std::vector<std::string> run(const Mix& mix) {
  Scheduler scheduler(mix.options);
  for (std::size_t i = 0; i < mix.requests.size(); ++i) {
    Request request;
    request.id = i;
    request.prompt.assign(static_cast<std::size_t>(mix.requests[i].first), 1);
    request.params.max_tokens = mix.requests[i].second;
    EXPECT_FALSE(scheduler.add(std::move(request)));
  }
  std::vector<std::string> steps;
  while (!scheduler.idle()) {
    const BatchPlan& plan = scheduler.plan();
    StepResult result{.step = plan.step, .tokens = {}, .compute_seconds = 0.0};
    std::ostringstream step;
    for (const PlannedSequence& s : plan.sequences) {
      step << (step.tellp() > 0 ? " " : "") << s.id << ':' << s.num_tokens;
      if (s.samples) result.tokens.push_back({.id = s.id, .token = 5, .logprob = 0.0F, .top = {}});
    }
    steps.push_back(step.str());
    scheduler.commit(result);
  }
  EXPECT_EQ(scheduler.counters().preemptions, 0U);
  return steps;
}

TEST(Sarathi, PlansAreThoseOfThePublishedAlgorithm) {
  const auto mixes = read_mixes();
  ASSERT_EQ(mixes.size(), 12U);
  for (const Mix& mix : mixes) {
    SCOPED_TRACE(mix.name);
    const auto steps = run(mix);
    ASSERT_EQ(steps.size(), mix.steps.size());
    for (std::size_t i = 0; i < steps.size(); ++i) ASSERT_EQ(steps[i], mix.steps[i]) << "step " << i;
  }
}

}  // namespace
}  // namespace nightshift::scheduler
