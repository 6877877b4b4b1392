// SPDX-License-Identifier: Apache-2.0
// What a step costs the host: plan() and commit() with a full batch, and whole lives of short requests.
#include <benchmark/benchmark.h>

#include "scheduler/scheduler.h"

namespace nightshift::scheduler {
namespace {

Options options_for(int sequences, int depth) {
  Options options;
  options.token_budget = 2048;
  options.max_sequences = sequences;
  options.max_context = 8192;
  options.kv_blocks = 64 * 1024;
  options.eos_ids = {0};
  options.pipeline_depth = depth;
  return options;
}

Request request(SequenceId id, int prompt_tokens, std::int64_t max_tokens) {
  Request r;
  r.id = id;
  for (int i = 0; i < prompt_tokens; ++i)  // the first half is common to all
    r.prompt.push_back(i < prompt_tokens / 2 ? i + 1
                                             : static_cast<TokenId>(1 + (id * 7919 + i * 31) % 100000));
  r.params.max_tokens = max_tokens;
  r.params.ignore_eos = false;
  return r;
}

void fill(StepResult& result, const BatchPlan& plan) {
  result.step = plan.step;
  result.tokens.clear();
  for (const PlannedSequence& s : plan.sequences)
    if (s.samples)
      result.tokens.push_back(
          {.id = s.id, .token = static_cast<TokenId>(1 + s.computed % 999), .logprob = 0.0F, .top = {}});
}

// All sequences decode, steadily: when one ends, the next of its kind takes its place.
void Step(benchmark::State& state) {
  const int sequences = static_cast<int>(state.range(0));
  const int prompt = static_cast<int>(state.range(1));
  Scheduler scheduler(options_for(sequences, 1));
  SequenceId id = 0;
  StepResult result;
  std::int64_t tokens = 0;
  for (auto _ : state) {
    state.PauseTiming();
    while (scheduler.wants_more()) benchmark::DoNotOptimize(scheduler.add(request(++id, prompt, 400)));
    state.ResumeTiming();
    const BatchPlan& plan = scheduler.plan();
    state.PauseTiming();
    fill(result, plan);
    tokens += plan.query_tokens;
    state.ResumeTiming();
    benchmark::DoNotOptimize(scheduler.commit(result));
  }
  scheduler.audit();
  state.counters["batch"] =
      static_cast<double>(scheduler.counters().sequences) / static_cast<double>(scheduler.counters().steps);
  state.counters["tokens/step"] = static_cast<double>(tokens) / static_cast<double>(state.iterations());
}
BENCHMARK(Step)
    ->Args({64, 256})
    ->Args({256, 64})
    ->Args({256, 1024})
    ->Args({1024, 256})
    ->Unit(benchmark::kMicrosecond);

// From add() to Finished, 20 tokens in and 8 out.
void ShortRequests(benchmark::State& state) {
  Scheduler scheduler(options_for(256, static_cast<int>(state.range(0))));
  SequenceId id = 0;
  std::deque<const BatchPlan*> in_flight;
  StepResult result;
  std::uint64_t finished = 0;
  for (auto _ : state) {
    while (scheduler.wants_more()) benchmark::DoNotOptimize(scheduler.add(request(++id, 20, 8)));
    if (const BatchPlan& plan = scheduler.plan(); !plan.empty()) in_flight.push_back(&plan);
    if (scheduler.in_flight() < scheduler.options().pipeline_depth) continue;
    fill(result, *in_flight.front());
    in_flight.pop_front();
    finished += scheduler.commit(result).size();
  }
  state.counters["requests/s"] =
      benchmark::Counter(static_cast<double>(finished), benchmark::Counter::kIsRate);
}
BENCHMARK(ShortRequests)->Arg(1)->Arg(2)->Unit(benchmark::kMicrosecond);

// The pool holds a quarter of what the batch would like: a blocked head of the queue and preemptions in many
// steps.
void ShortOfBlocks(benchmark::State& state) {
  Options options = options_for(256, 1);
  options.kv_blocks = 8 * 1024;
  options.prefix_cache = state.range(0) != 0;
  Scheduler scheduler(options);
  SequenceId id = 0;
  StepResult result;
  for (auto _ : state) {
    state.PauseTiming();
    while (scheduler.wants_more()) benchmark::DoNotOptimize(scheduler.add(request(++id, 2000, 400)));
    state.ResumeTiming();
    const BatchPlan& plan = scheduler.plan();
    state.PauseTiming();
    fill(result, plan);
    state.ResumeTiming();
    benchmark::DoNotOptimize(scheduler.commit(result));
  }
  scheduler.audit();
  const Counters counters = scheduler.counters();
  state.counters["batch"] = static_cast<double>(counters.sequences) / static_cast<double>(counters.steps);
  state.counters["preemptions/step"] =
      static_cast<double>(counters.preemptions) / static_cast<double>(counters.steps);
}
BENCHMARK(ShortOfBlocks)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace nightshift::scheduler

BENCHMARK_MAIN();
