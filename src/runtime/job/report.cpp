// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/report.h"

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.h"
#include "core/text.h"

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
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
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

std::string heading(const json& summary, const json& provenance) {
  std::string where;
  if (const json runs = provenance.value("runs", json::array()); !runs.empty()) {
    const json& run = runs.back();
    where = fmt::format(", {} ranks x {} threads, {} kernels", run.at("ranks").get<int>(),
                        run.at("threads").get<int>(), run.at("kernel_set").get<std::string>());
  }
  const json job = provenance.value("job", json::object());
  const json section = job.value("job", json::object());
  return fmt::format("{}: {}{}\n", section.value("name", std::string("job")),
                     summary.at("complete").get<bool>() ? "complete" : "not complete", where);
}

}  // namespace

std::string report_text(const std::string& summary_json, const std::string& provenance_json) {
  try {
    const json summary = json::parse(summary_json);
    const json provenance = json::parse(provenance_json);
    return heading(summary, provenance) + "\n" + answers_part(summary) + "\n" + speed_part(summary) + "\n" +
           latency_part(summary) + "\n" + engine_part(summary);
  } catch (const json::exception& error) {
    throw Error(fmt::format("no report of nightshift: {}", error.what()));
  }
}

double failed_share_of(const std::string& summary_json) {
  return json::parse(summary_json).value("failed_share", 0.0);
}

}  // namespace nightshift::runtime
