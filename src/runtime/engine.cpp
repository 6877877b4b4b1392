// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine.h"

#include <optional>

#include "model/random.h"

namespace nightshift::runtime {

bool Engine::run() {
  const double start = last_checkpoint_ = replica_.now();
  bool going = true;
  for (bool end = false; !end;) {
    Orders orders;
    const bool busy = replica_.in_flight() > 0;
    const std::optional<StepResult> result = replica_.collect_due();
    const double now = replica_.now();
    std::vector<scheduler::Finished> finished;
    if (result) finished = commit(*result, orders.stop, now);
    expire(orders, now, finished);
    going = tick_();
    if (going) admit(orders);
    end = orders.end = !going || (orders.closed && scheduler_.idle());
    // A leader without work is silent: its followers wait for its next word.
    if (busy || end || !orders.admitted.empty() || !orders.cancel.empty()) replica_.send(orders);
    emit(std::move(finished), now);
    if (end) drain();
    if (!going || (checkpoint_seconds_ > 0 && now - last_checkpoint_ >= checkpoint_seconds_)) checkpoint();
    if (!end) step();
  }
  counters_.host_seconds = replica_.now() - start - counters_.compute_seconds - counters_.idle_seconds;
  settle();
  return going;
}

// Which sequences the step's tokens end, and what that leaves.
std::vector<scheduler::Finished> Engine::commit(const StepResult& result, std::vector<SequenceId>& stop,
                                                double now) {
  const TraceScope scope(replica_.trace(), "commit");
  stop = emitter_.observe(result, now);
  return scheduler_.commit(result, stop);
}

// Steps still in flight when the engine stops early: their tokens count, too.
void Engine::drain() {
  while (replica_.in_flight() > 0) {
    const StepResult result = replica_.collect();
    const double now = replica_.now();
    std::vector<SequenceId> stop;
    emit(commit(result, stop, now), now);
  }
}

// Ends what has run for too long.
void Engine::expire(Orders& orders, double now, std::vector<scheduler::Finished>& finished) {
  for (const SequenceId id : emitter_.overdue(now)) {
    auto ended = scheduler_.cancel(id);
    if (!ended) continue;  // its last token has just come: it is in `finished`
    emitter_.timed_out(id);
    orders.cancel.push_back(id);
    finished.push_back(std::move(*ended));
  }
}

// Claims ahead of need and hands over what is ready, as far as the scheduler can use it soon.
void Engine::admit(Orders& orders) {
  const TraceScope scope(replica_.trace(), "admit");
  intake_.claim(static_cast<std::size_t>(scheduler_.waiting() + scheduler_.running()));
  while (scheduler_.wants_more()) {
    const std::optional<PreparedPrompt> prompt = intake_.take();
    if (!prompt) break;
    if (prompt->error.empty()) {
      enqueue(*prompt, orders);
    } else {
      emitter_.fail(*prompt, prompt->error, replica_.now());
    }
  }
  orders.closed = intake_.exhausted();
  if (orders.closed) scheduler_.close();
}

void Engine::enqueue(const PreparedPrompt& prompt, Orders& orders) {
  const auto own_seed = prompt.params.own_seed ? std::optional(prompt.params.seed) : std::nullopt;
  for (const std::int32_t sample : prompt.samples) {
    scheduler::Request request;
    request.id = next_id_++;
    request.prompt = prompt.tokens;
    request.params = prompt.params;
    request.random_key =
        model::random_key(job_seed_, own_seed, prompt.id_key, static_cast<std::uint64_t>(sample));
    if (const io::ProgressRecord* begun = prompt.begun_of(sample)) request.output = begun->tokens;
    const SequenceId id = request.id;
    if (replica_.has_followers()) orders.admitted.push_back(request);
    if (const auto refused = scheduler_.add(std::move(request))) {
      if (replica_.has_followers()) orders.admitted.pop_back();
      return emitter_.fail(prompt, *refused, replica_.now());
    }
    emitter_.start(id, prompt, sample);
  }
}

void Engine::emit(std::vector<scheduler::Finished>&& finished, double now) {
  if (finished.empty()) return;
  const TraceScope scope(replica_.trace(), "emit");
  emitter_.finish(std::move(finished), now);
}

// No wait for the disk: the journal commits within a second, and is flushed before a stopped engine's rank
// leaves.
void Engine::checkpoint() {
  const TraceScope scope(replica_.trace(), "checkpoint");
  const double before = last_checkpoint_ = replica_.now();
  emitter_.checkpoint(scheduler_.progress());
  counters_.checkpoint_seconds += replica_.now() - before;
  ++counters_.checkpoints;
}

// The next one, or a moment's wait for prompts where nothing can run.
void Engine::step() {
  const BatchPlan& plan = replica_.advance([&](const BatchPlan& next) {
    emitter_.planned(next, replica_.now());
    const StepCost cost = step_cost(shape_, next);
    counters_.hardware_flops += cost.flops;
    counters_.memory_bytes += cost.memory_bytes;
  });
  if (plan.empty() && replica_.in_flight() == 0) wait();
}

void Engine::wait() {
  const TraceScope scope(replica_.trace(), "idle");
  const double before = replica_.now();
  intake_.wait();
  counters_.idle_seconds += replica_.now() - before;
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
