// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine.h"

#include "model/random.h"

namespace nightshift::runtime {

bool Engine::run() {
  const double start = clock_();
  bool going = true;
  while ((going = tick_())) {
    admit();
    const BatchPlan& plan = scheduler_.plan();
    if (plan.empty()) {
      if (intake_.exhausted()) break;
      const double before = clock_();
      intake_.wait();
      counters_.idle_seconds += clock_() - before;
      continue;
    }
    const StepResult result = execute(plan);
    const double now = clock_();
    const std::vector<SequenceId> stop = emitter_.observe(result, now);
    emitter_.finish(scheduler_.commit(result, stop), now);
  }
  counters_.host_seconds = clock_() - start - counters_.compute_seconds - counters_.idle_seconds;
  settle();
  return going;
}

// Claims ahead of need and hands over what is ready, as far as the scheduler can use it soon.
void Engine::admit() {
  intake_.claim();
  while (scheduler_.wants_more()) {
    const std::optional<PreparedPrompt> prompt = intake_.take();
    if (!prompt) return;
    if (prompt->error.empty()) {
      enqueue(*prompt);
    } else {
      emitter_.fail(*prompt, prompt->error, clock_());
    }
  }
}

void Engine::enqueue(const PreparedPrompt& prompt) {
  const auto own_seed = prompt.params.own_seed ? std::optional(prompt.params.seed) : std::nullopt;
  for (const std::int32_t sample : prompt.samples) {
    scheduler::Request request;
    request.id = next_id_++;
    request.prompt = prompt.tokens;
    request.params = prompt.params;
    request.random_key =
        model::random_key(job_seed_, own_seed, prompt.id_key, static_cast<std::uint64_t>(sample));
    const SequenceId id = request.id;
    if (const auto refused = scheduler_.add(std::move(request)))
      return emitter_.fail(prompt, *refused, clock_());
    emitter_.start(id, prompt, sample);
  }
}

StepResult Engine::execute(const BatchPlan& plan) {
  const double before = clock_();
  emitter_.planned(plan, before);
  const StepCost cost = step_cost(shape_, plan);
  executor_.submit(plan);
  StepResult result = executor_.collect();
  const double seconds = clock_() - before;
  counters_.compute_seconds += seconds;
  counters_.step.add(seconds);
  counters_.hardware_flops += cost.flops;
  counters_.memory_bytes += cost.memory_bytes;
  return result;
}

// What the scheduler counted, into the report's terms.
void Engine::settle() {
  const scheduler::Counters c = scheduler_.counters();
  counters_.steps = c.steps;
  counters_.decode_tokens = c.decode_tokens;
  counters_.prefill_tokens = c.prefill_tokens;
  counters_.recomputed_tokens = c.recomputed_tokens;
  counters_.preemptions = c.preemptions;
  counters_.kv_blocks = static_cast<std::uint64_t>(scheduler_.options().kv_blocks);
  counters_.kv_blocks_high_water = static_cast<std::uint64_t>(c.kv_blocks_high_water);
  // Recomputation is work but no progress; its attention part is small beside its matrices and left in.
  counters_.model_flops = counters_.hardware_flops - 2.0 * static_cast<double>(c.recomputed_tokens) *
                                                         static_cast<double>(shape_.matrix_parameters());
  scheduler_.audit();
}

}  // namespace nightshift::runtime
