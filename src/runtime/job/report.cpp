// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/report.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.h"
#include "core/text.h"
#include "runtime/job/geometry.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;

constexpr std::array<std::pair<const char*, const char*>, 8> kLatencies{
    {{"scheduling_delay", "scheduling delay"},
     {"time_to_first_token", "time to first token"},
     {"prefill", "prefill"},
     {"inter_token", "between tokens"},
     {"time_per_output_token", "per output token"},
     {"end_to_end", "end to end"},
     {"normalised", "end to end / tokens"},
     {"step", "step"}}};

std::string row(const char* name, const std::string& value) {
  return fmt::format("  {:<21}{}\n", name, value);
}

std::string percent(const json& share) {
  return fmt::format("{:.1f} %", 100.0 * share.get<double>());
}

std::string count(const json& number) {
  return format_count(number.get<double>());
}

std::string short_time(double seconds) {
  if (seconds > 0 && seconds < 1e-6) return fmt::format("{:.3g} ns", seconds * 1e9);
  if (seconds < 1e-3) return fmt::format("{:.3g} us", seconds * 1e6);
  if (seconds < 1.0) return fmt::format("{:.3g} ms", seconds * 1e3);
  return seconds < 100 ? fmt::format("{:.2f} s", seconds) : format_duration(seconds);
}

std::string listed(const json& counts) {  // "stop 12, length 3"
  std::string out;
  for (const auto& [name, number] : counts.items()) {
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", name, count(number));
  }
  return out.empty() ? "none" : out;
}

std::string answers_part(const json& s) {
  const json& tokens = s.at("tokens");
  std::string text = "Answers\n";
  text += row("prompts",
              s.at("prompts") == s.at("answers")
                  ? count(s.at("prompts"))
                  : fmt::format("{} giving {} answers", count(s.at("prompts")), count(s.at("answers"))));
  text += row("finished by", listed(s.at("finish_reasons")));
  text += row("failed", fmt::format("{} ({} allowed): {}", percent(s.at("failed_share")),
                                    percent(s.at("max_failed")), listed(s.at("failures"))));
  text += row("prompt tokens", fmt::format("{}, {} of them from the prefix cache", count(tokens.at("prompt")),
                                           count(tokens.at("cached"))));
  return text + row("output tokens", count(tokens.at("output")));
}

std::string speed_part(const json& s) {
  const json& rate = s.at("throughput");
  const json& use = s.at("utilization");
  std::string text = "Speed\n";
  text += row("engine time",
              format_duration(s.at("seconds")) +
                  (s.at("starts") == 1 ? "" : fmt::format(" in {} starts", count(s.at("starts")))));
  text += row("tokens/s",
              fmt::format("{} (prompt {}, output {})", count(rate.at("total_tokens_per_s")),
                          count(rate.at("prompt_tokens_per_s")), count(rate.at("output_tokens_per_s"))));
  text += row("answers/s", fmt::format("{:.4g}", rate.at("answers_per_s").get<double>()));
  text += row("share of peak FLOP/s",
              fmt::format("MFU {}, HFU {} of {:.3g} TFLOP/s measured", percent(use.at("mfu")),
                          percent(use.at("hfu")), use.at("peak_flops").get<double>() / 1e12));
  text += row("share of bandwidth", fmt::format("MBU {} of {:.3g} GB/s measured", percent(use.at("mbu")),
                                                use.at("peak_bytes_per_s").get<double>() / 1e9));
  return text + row("rank time",
                    fmt::format("model {}, host {}, idle {}; loading {} before",
                                percent(use.at("model_share")), percent(use.at("host_share")),
                                percent(use.at("idle_share")), format_duration(use.at("load_seconds"))));
}

std::string latency_part(const json& s) {
  std::string text = fmt::format("{:<23}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}\n", "Latency", "mean", "P50",
                                 "P90", "P99", "P99.9", "max");
  for (const auto& [key, name] : kLatencies) {
    const json& l = s.at("latency").at(key);
    if (l.at("count") == 0) continue;
    text += fmt::format("  {:<21}", name);
    for (const char* q : {"mean", "p50", "p90", "p99", "p999", "max"})
      text += fmt::format("{:>11}", short_time(l.at(q)));
    text += "\n";
  }
  return text;
}

std::string engine_part(const json& s) {
  const json& e = s.at("engine");
  std::string text = "Engine\n";
  text += row("steps", count(e.at("steps")));
  text += row("computed tokens", fmt::format("prefill {}, decode {}; {} of them again after {} preemptions",
                                             count(e.at("prefill_tokens")), count(e.at("decode_tokens")),
                                             count(e.at("recomputed_tokens")), count(e.at("preemptions"))));
  if (e.at("taken_up_answers") != 0)
    text += row("taken up", fmt::format("{} answers of earlier starts behind {} tokens",
                                        count(e.at("taken_up_answers")), count(e.at("taken_up_tokens"))));
  if (e.at("checkpoint_tokens") != 0)
    text += row("checkpoints",
                fmt::format("{}: {} tokens in {}", count(e.at("checkpoints")),
                            count(e.at("checkpoint_tokens")), short_time(e.at("checkpoint_seconds"))));
  text += row("KV cache", fmt::format("{} used at most", percent(e.at("kv_high_water"))));
  text += row("memory", format_bytes(e.at("resident_bytes_per_rank")) + " per rank");
  const json& j = s.at("journal");
  const std::uint64_t lost =
      j.at("torn_bytes").get<std::uint64_t>() + j.at("damaged_bytes").get<std::uint64_t>();
  if (lost > 0)
    text += row("journal",
                fmt::format("{} unreadable, their rows ran again", format_bytes(static_cast<double>(lost))));
  if (j.at("conflicts") != 0)
    text += row("journal", fmt::format("{} answers differ between starts", count(j.at("conflicts"))));
  return text;
}

std::string step_time(const json& calibration, const char* layout) {
  const json& time = calibration.at(layout);
  return fmt::format("{} {} + {}/token + {}/key", layout, short_time(time.at("fixed")),
                     short_time(time.at("per_token")), short_time(time.at("per_key")));
}

std::string layout_rows(const json& layouts) {
  std::string text;
  for (const auto& [name, l] : layouts.items()) {
    const auto seconds = l.at("seconds").get<double>();
    if (l.at("steps") == 0) continue;
    text += row((name + " layout").c_str(),
                fmt::format("{} steps, {} tokens in {}: {} tokens/s", count(l.at("steps")),
                            count(l.at("tokens")), short_time(seconds),
                            format_count(seconds > 0 ? l.at("tokens").get<double>() / seconds : 0.0)));
  }
  return text;
}

std::string traffic_table(const json& traffic) {
  std::vector<std::pair<std::string, json>> kinds;
  for (const auto& [kind, sum] : traffic.items())
    if (sum.at("calls") != 0) kinds.emplace_back(kind, sum);
  if (kinds.empty()) return {};
  std::stable_sort(kinds.begin(), kinds.end(),
                   [](const auto& a, const auto& b) { return a.second["bytes"] > b.second["bytes"]; });
  std::string text = fmt::format("{:<23}{:>11}{:>11}{:>11}{:>14}\n", "Communication", "sent", "calls", "time",
                                 "of rank time");
  for (const auto& [kind, sum] : kinds) {
    text += fmt::format("  {:<21}{:>11}{:>11}{:>11}{:>14}\n", kind, format_bytes(sum.at("bytes")),
                        count(sum.at("calls")), short_time(sum.at("seconds")),
                        percent(sum.at("share_of_rank_time")));
  }
  return text;
}

std::string idle_text(const json& shares) {
  double sum = 0.0, worst = 0.0;
  for (const json& share : shares) {
    sum += share.get<double>();
    worst = std::max(worst, share.get<double>());
  }
  const std::string mean = percent(shares.empty() ? 0.0 : sum / static_cast<double>(shares.size()));
  return fmt::format("{} of rank time, {} in the replica with the most", mean, percent(worst));
}

Geometry geometry_of(const json& run) {
  Geometry g;
  g.ranks = run.at("ranks");
  g.replicas = run.at("replicas");
  g.degrees = {run.at("sequence"), run.at("tensor")};
  return g;
}

// How several ranks worked together; nothing for a job of single ranks.
std::string parallel_part(const json& s) {
  if (!s.contains("parallel")) return {};
  const json &p = s.at("parallel"), &use = s.at("utilization");
  const Geometry geometry = geometry_of(p);
  std::string text = "Parallel\n";
  text += row("geometry", fmt::format("{} on {} host{}", geometry.text(), p.at("hosts").get<int>(),
                                      p.at("hosts") == 1 ? "" : "s"));
  if (geometry.degrees.ranks() > 1) {
    text += row("shift", fmt::format("{}; {} changes of layout", p.at("shift").get<std::string>(),
                                     count(p.at("shifts"))));
    if (!p.at("calibration").is_null()) {
      text += row("measured at start", step_time(p.at("calibration"), "base"));
      text += row("", step_time(p.at("calibration"), "shift"));
    }
    text += layout_rows(p.at("layouts"));
  }
  text += row("weights", fmt::format("{} once per host, {} of it used by a rank, shift on or off",
                                     format_bytes(p.at("weight_bytes_per_host")),
                                     format_bytes(p.at("weight_bytes_per_rank"))));
  text += row("memory", format_bytes(p.at("pss_bytes_per_host")) + " per host (PSS of its ranks)");
  text += row("loading", fmt::format("{} read in {}: {:.3g} GB/s", format_bytes(use.at("load_bytes")),
                                     short_time(use.at("load_seconds")),
                                     use.at("load_bytes_per_s").get<double>() / 1e9));
  text += row("idle", idle_text(p.at("idle_share_per_replica")));
  if (p.at("trace_events_dropped") != 0)
    text +=
        row("trace", count(p.at("trace_events_dropped")) + " events did not fit into memory and are missing");
  const std::string table = traffic_table(p.at("traffic"));
  return "\n" + text + (table.empty() ? "" : "\n" + table);
}

std::string heading(const json& summary, const json& provenance) {
  std::string where;
  if (const json runs = provenance.value("runs", json::array()); !runs.empty()) {
    const json& run = runs.back();
    const int ranks = run.at("ranks"), threads = run.at("threads");
    where = fmt::format(", {} rank{} x {} thread{}, {} kernels", ranks, ranks == 1 ? "" : "s", threads,
                        threads == 1 ? "" : "s", run.at("kernel_set").get<std::string>());
  }
  const json job = provenance.value("job", json::object());
  const json section = job.value("job", json::object());
  return fmt::format("{}: {}{}\n", section.value("name", std::string("job")),
                     summary.at("complete").get<bool>() ? "complete" : "not complete", where);
}

}  // namespace

std::string report_text(const std::string& summary_json, const std::string& provenance_json) {
  for (const std::string* text : {&summary_json, &provenance_json})
    if (nests_deeper(*text, kMaxJsonDepth)) throw Error("no report of nightshift: nested too deeply");
  try {
    const json summary = json::parse(summary_json);
    const json provenance = json::parse(provenance_json);
    return heading(summary, provenance) + "\n" + answers_part(summary) + "\n" + speed_part(summary) + "\n" +
           latency_part(summary) + "\n" + engine_part(summary) + parallel_part(summary);
  } catch (const json::exception& error) {
    throw Error(fmt::format("no report of nightshift: {}", error.what()));
  }
}

double failed_share_of(const std::string& summary_json) {
  return json::parse(summary_json).value("failed_share", 0.0);
}

}  // namespace nightshift::runtime
