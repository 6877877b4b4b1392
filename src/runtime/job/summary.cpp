// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "parallel/layout/layout.h"
#include "runtime/job/report.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;

double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0.0;
}

json latency(const LatencySketch& sketch) {
  return {{"count", sketch.count()},     {"mean", sketch.mean()},        {"p50", sketch.quantile(0.5)},
          {"p90", sketch.quantile(0.9)}, {"p99", sketch.quantile(0.99)}, {"p999", sketch.quantile(0.999)},
          {"max", sketch.max()}};
}

// Sums over all starts; products with a start's own duration, because peaks differ between machines.
struct RunTotals {
  RunCounters counters;
  double seconds = 0.0;  // engine loop, all starts
  double rank_seconds = 0.0;
  double possible_flops = 0.0;  // peak x seconds
  double possible_bytes = 0.0;
  double load_seconds = 0.0;  // wall, slowest rank of each start
  std::uint64_t resident_per_rank = 0;
  double kv_high_water = 0.0;  // share, worst rank

  explicit RunTotals(const std::vector<RunRecord>& runs) {
    for (const RunRecord& run : runs) add(run);
  }

 private:
  void add(const RunRecord& run) {
    counters.add(run.total);
    seconds += run.seconds;
    rank_seconds += run.seconds * run.ranks;
    possible_flops += run.total.peak_flops * run.seconds;
    possible_bytes += run.total.peak_bandwidth * run.seconds;
    double slowest_load = 0.0;
    for (const RunCounters& rank : run.per_rank) {
      slowest_load = std::max(slowest_load, rank.load_seconds);
      resident_per_rank = std::max(resident_per_rank, rank.resident_bytes);
      kv_high_water = std::max(kv_high_water, ratio(static_cast<double>(rank.kv_blocks_high_water),
                                                    static_cast<double>(rank.kv_blocks)));
    }
    load_seconds += slowest_load;
  }
};

json throughput(const AnswerTotals& answers, double seconds) {
  const auto rate = [&](std::uint64_t count) { return ratio(static_cast<double>(count), seconds); };
  return {{"prompt_tokens_per_s", rate(answers.prompt_tokens)},
          {"output_tokens_per_s", rate(answers.output_tokens)},
          {"total_tokens_per_s", rate(answers.prompt_tokens + answers.output_tokens)},
          {"answers_per_s", rate(answers.answers)}};
}

json utilization(const RunTotals& t) {
  return {{"mfu", ratio(t.counters.model_flops, t.possible_flops)},
          {"hfu", ratio(t.counters.hardware_flops, t.possible_flops)},
          {"mbu", ratio(t.counters.memory_bytes, t.possible_bytes)},
          {"peak_flops", ratio(t.possible_flops, t.seconds)},
          {"peak_bytes_per_s", ratio(t.possible_bytes, t.seconds)},
          {"model_share", ratio(t.counters.compute_seconds, t.rank_seconds)},
          {"host_share", ratio(t.counters.host_seconds, t.rank_seconds)},
          {"idle_share", ratio(t.counters.idle_seconds, t.rank_seconds)},
          {"load_seconds", t.load_seconds},
          {"load_bytes", t.counters.load_bytes},
          {"load_bytes_per_s", ratio(static_cast<double>(t.counters.load_bytes), t.load_seconds)}};
}

json engine(const RunTotals& t) {
  return {{"steps", t.counters.steps},
          {"prefill_tokens", t.counters.prefill_tokens},
          {"decode_tokens", t.counters.decode_tokens},
          {"recomputed_tokens", t.counters.recomputed_tokens},
          {"preemptions", t.counters.preemptions},
          {"taken_up_answers", t.counters.taken_up_answers},
          {"taken_up_tokens", t.counters.taken_up_tokens},
          {"checkpoints", t.counters.checkpoints},
          {"checkpoint_tokens", t.counters.checkpoint_tokens},
          {"checkpoint_seconds", t.counters.checkpoint_seconds},
          {"kv_high_water", t.kv_high_water},
          {"resident_bytes_per_rank", t.resident_per_rank}};
}

json layouts(const RunCounters& c) {
  json out;
  for (const auto layout : {parallel::Layout::base, parallel::Layout::shift}) {
    const auto i = static_cast<std::size_t>(layout);
    out[parallel::name_of(layout)] = {
        {"steps", c.layout_steps[i]}, {"tokens", c.layout_tokens[i]}, {"seconds", c.layout_seconds[i]}};
  }
  return out;
}

json traffic(const RunTotals& t) {
  json out = json::object();
  for (const auto& [kind, sum] : t.counters.traffic) {
    out[kind] = {{"bytes", sum.bytes},
                 {"calls", sum.calls},
                 {"seconds", sum.seconds},
                 {"share_of_rank_time", ratio(sum.seconds, t.rank_seconds)}};
  }
  return out;
}

// Share of rank time without work, replica by replica.
json idle_shares(const RunRecord& run) {
  const auto size = static_cast<std::size_t>(run.sequence * run.tensor);
  json shares = json::array();
  for (std::size_t first = 0; first + size <= run.per_rank.size(); first += size) {
    double idle = 0.0;
    for (std::size_t rank = first; rank < first + size; ++rank) idle += run.per_rank[rank].idle_seconds;
    shares.push_back(ratio(idle, run.seconds * static_cast<double>(size)));
  }
  return shares;
}

// How ranks worked together: counters over all starts, the rest of the last start that had several ranks.
// Null when none had.
json parallel_work(const RunTotals& t, const std::vector<RunRecord>& runs) {
  const auto found =
      std::find_if(runs.rbegin(), runs.rend(), [](const RunRecord& run) { return run.ranks > 1; });
  if (found == runs.rend()) return nullptr;
  const RunRecord& run = *found;
  const std::uint64_t hosts = std::max<std::size_t>(run.hosts.size(), 1);
  std::uint64_t weights_per_rank = 0;
  for (const RunCounters& rank : run.per_rank)
    weights_per_rank = std::max(weights_per_rank, rank.weight_bytes_per_rank);
  return {{"ranks", run.ranks},
          {"replicas", run.replicas},
          {"sequence", run.sequence},
          {"tensor", run.tensor},
          {"hosts", hosts},
          {"shift", run.shift},
          {"calibration", run.calibration.empty() ? json() : json::parse(run.calibration)},
          {"shifts", t.counters.shifts},
          {"layouts", layouts(t.counters)},
          {"traffic", traffic(t)},
          {"idle_share_per_replica", idle_shares(run)},
          {"weight_bytes_per_host", run.total.weight_bytes / hosts},
          {"weight_bytes_per_rank", weights_per_rank},
          {"pss_bytes_per_host", run.total.host_pss_bytes / hosts},
          {"trace_events_dropped", t.counters.trace_events_dropped}};
}

json journal(const io::JournalHealth& health) {
  return {{"files", health.files},           {"records", health.records},
          {"duplicates", health.duplicates}, {"conflicts", health.conflicts},
          {"torn_bytes", health.torn_bytes}, {"damaged_bytes", health.damaged_bytes}};
}

}  // namespace

void AnswerTotals::add(const io::ResultRecord& record) {
  ++answers;
  if (record.sample == 0) ++prompts;
  ++finish_reasons[name_of(record.finish_reason)];
  if (record.finish_reason == FinishReason::failed) {
    ++failures[record.error.substr(0, record.error.find(':'))];
  }
  prompt_tokens += static_cast<std::uint64_t>(record.prompt_tokens);
  cached_tokens += static_cast<std::uint64_t>(record.cached_tokens);
  output_tokens += record.tokens.size();
  has_logprobs = has_logprobs || !record.logprobs.empty();
  top_k = std::max(top_k, record.top_k);
  if (record.tokens.empty()) return;  // never ran, or has no token to take a time from
  const auto tokens = static_cast<double>(record.tokens.size());
  scheduling_delay.add(record.started_s);
  time_to_first_token.add(record.first_token_s);
  prefill.add(record.first_token_s - record.started_s);
  if (tokens > 1) time_per_output_token.add((record.finished_s - record.first_token_s) / (tokens - 1));
  end_to_end.add(record.finished_s);
  normalised.add(record.finished_s / tokens);
}

std::uint64_t AnswerTotals::failed() const {
  const auto found = finish_reasons.find(name_of(FinishReason::failed));
  return found == finish_reasons.end() ? 0 : found->second;
}

AnswerTotals total_answers(const io::JournalIndex& index) {
  AnswerTotals totals;
  index.for_each([&](const io::ResultRecord& record) { totals.add(record); });
  return totals;
}

std::uint64_t count_failed(const io::JournalIndex& index) {
  std::uint64_t failed = 0;
  index.for_each(
      [&](const io::ResultRecord& record) { failed += record.finish_reason == FinishReason::failed; });
  return failed;
}

std::string summary_to_json(const Job& job, const AnswerTotals& answers, const std::vector<RunRecord>& runs,
                            const io::JournalHealth& health, bool complete) {
  const RunTotals totals(runs);
  json out = {{"complete", complete},
              {"prompts", answers.prompts},
              {"answers", answers.answers},
              {"finish_reasons", answers.finish_reasons},
              {"failures", answers.failures},
              {"failed_share", answers.failed_share()},
              {"max_failed", job.job.max_failed},
              {"tokens",
               {{"prompt", answers.prompt_tokens},
                {"cached", answers.cached_tokens},
                {"output", answers.output_tokens}}},
              {"starts", runs.size()},
              {"seconds", totals.seconds},
              {"throughput", throughput(answers, totals.seconds)},
              {"utilization", utilization(totals)},
              {"latency",
               {{"scheduling_delay", latency(answers.scheduling_delay)},
                {"time_to_first_token", latency(answers.time_to_first_token)},
                {"prefill", latency(answers.prefill)},
                {"inter_token", latency(totals.counters.inter_token)},
                {"time_per_output_token", latency(answers.time_per_output_token)},
                {"end_to_end", latency(answers.end_to_end)},
                {"normalised", latency(answers.normalised)},
                {"step", latency(totals.counters.step)}}},
              {"engine", engine(totals)},
              {"journal", journal(health)}};
  if (const json parallel = parallel_work(totals, runs); !parallel.is_null()) out["parallel"] = parallel;
  return out.dump();
}

}  // namespace nightshift::runtime
