// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/liveness.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "io/inspect.h"
#include "io/journal.h"
#include "io/manifest.h"
#include "io/prompts.h"
#include "runtime/job/report.h"
#include "runtime/job/standing.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr double kSilentSeconds = 60.0;  // the lock's file is touched every 10 s

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string host_name() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

double seconds_since_touched(const fs::path& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) return 1e9;
  return std::difftime(std::time(nullptr), status.st_mtim.tv_sec);
}

std::string text_of(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::int64_t number_of(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number_integer() ? it->get<std::int64_t>() : 0;
}

// The launcher that holds the job, or "" when there is none that lives: on this host its process must exist,
// on another the lock must have been touched of late.
std::string living_holder(const fs::path& dir) {
  const json lock = json::parse(first_line(dir / "lock"), nullptr, false);
  if (!lock.is_object()) return {};
  const std::string host = text_of(lock, "host");
  const auto pid = number_of(lock, "pid");
  const std::string name = fmt::format("process {} on {}", pid, host);
  if (host != host_name()) return seconds_since_touched(dir / "lock") < kSilentSeconds ? name : std::string();
  if (text_of(lock, "boot") != first_line("/proc/sys/kernel/random/boot_id")) return {};
  if (pid <= 0 || pid > std::numeric_limits<pid_t>::max()) return {};  // kill() takes 0 and below for groups
  return ::kill(static_cast<pid_t>(pid), 0) == 0 || errno == EPERM ? name : std::string();
}

// Journals tell what is durable, also when the last start died without a word.
void count_journals(const fs::path& dir, Liveness& out) {
  try {
    const auto manifest = io::read_manifest(dir.string());
    if (!manifest) return;
    const io::JournalIndex index(dir.string(), manifest->fingerprint());
    out.committed_rows = index.committed_rows();
    out.failed = count_failed(index);
    const Session session(dir);
    const Job job = session.read_job();
    out.rows = io::PromptReader(session.prompts_file(job).string(), job.sampling).rows();
  } catch (const Error&) {
    // A journal folder that is just being made, or an input that this host does not see: what is known is
    // said.
  }
}

// What the result says of itself.
void read_finished(const fs::path& output, Liveness& out) {
  const auto root = read_result_root(output);
  if (!root) return;
  const json summary = json::parse(root->summary, nullptr, false);
  if (!summary.is_object()) return;
  out.failed = summary.value("/finish_reasons/failed"_json_pointer, std::uint64_t{0});
  out.restarts = std::max(summary.value("starts", 1) - 1, 0);
}

std::string seconds_ago(std::int64_t unix_seconds) {
  return format_duration(std::difftime(std::time(nullptr), static_cast<std::time_t>(unix_seconds)));
}

std::string restarts_text(int restarts) {
  return restarts > 0 ? fmt::format(", {} restart{}", restarts, restarts == 1 ? "" : "s") : "";
}

std::string marks_of(const Liveness& l) {
  const std::string failed =
      l.failed > 0 ? fmt::format(", {} failed", format_count(static_cast<double>(l.failed))) : "";
  return failed + restarts_text(l.restarts);
}

// Rewritten every second and never synced: a power cut may leave anything in its place, and nothing is lost
// with it.
std::optional<Status> readable_status(const fs::path& dir) {
  try {
    return Session(dir).read_status();
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

Liveness look_at_job(const fs::path& output) {
  Liveness out;
  fs::path dir = output;
  dir += ".journal";
  if (fs::is_directory(dir)) {
    out.status = readable_status(dir);
    out.holder = living_holder(dir);
    const std::vector<RunRecord> runs = Session(dir).read_runs();
    const bool asked = !runs.empty() && !runs.back().stopped_by.empty();
    out.state = !out.holder.empty() ? "running" : asked ? "stopped" : "dead";
    out.restarts = out.status ? out.status->restarts : runs.empty() ? 0 : runs.back().number - 1;
    if (out.holder.empty()) {
      count_journals(dir, out);
    } else if (out.status) {
      out.failed = out.status->failed;
    }
    return out;
  }
  if (!fs::exists(output)) {
    throw BadInput(fmt::format("neither {} nor {} exists", output.string(), dir.string()),
                   "name the job's output; a job that has not been started leaves no trace");
  }
  out.state = "finished";
  const io::Inspection found = io::inspect_file(output.string());
  if (found.format != "results/1") {
    throw BadInput(fmt::format("{} is not a result of nightshift ({})", output.string(), found.format),
                   "name the job's output");
  }
  out.rows = out.committed_rows = found.rows;
  read_finished(output, out);
  return out;
}

std::string progress_line(const Status& s) {
  const auto total = static_cast<double>(s.samples_total);
  if (s.state != "running") return s.note.empty() ? s.state : fmt::format("{}: {}", s.state, s.note);
  std::string line =
      fmt::format("{} of {} ({:.1f} %)", format_count(static_cast<double>(s.done)), format_count(total),
                  total > 0 ? 100.0 * static_cast<double>(s.done) / total : 0.0);
  line += fmt::format(", {} tokens/s", format_count(s.tokens_per_second));
  if (s.eta_seconds >= 0) line += fmt::format(", {} left", format_duration(s.eta_seconds));
  if (s.failed > 0) line += fmt::format(", {} failed", format_count(static_cast<double>(s.failed)));
  return line;
}

namespace {

std::string running_text(const Liveness& l) {
  std::string text = fmt::format(" ({})\n", l.holder);
  if (!l.status) return text;
  const Status& s = *l.status;
  text += fmt::format("  {}\n  {} ranks, {} prompt and {} output tokens in {}{}\n", progress_line(s), s.ranks,
                      format_count(static_cast<double>(s.prompt_tokens)),
                      format_count(static_cast<double>(s.output_tokens)), format_duration(s.elapsed_seconds),
                      restarts_text(l.restarts));
  if (std::difftime(std::time(nullptr), static_cast<std::time_t>(s.updated_unix)) > kSilentSeconds)
    text += fmt::format("  the ranks last said so {} ago\n", seconds_ago(s.updated_unix));
  return text;
}

std::string ended_text(const Liveness& l) {
  std::string text;
  const auto count = [](std::uint64_t n) { return format_count(static_cast<double>(n)); };
  if (l.rows > 0) {
    text = fmt::format(", {} of {} prompts answered and safe, {} left", count(l.committed_rows),
                       count(l.rows), count(l.rows - l.committed_rows));
  } else if (l.committed_rows > 0) {
    text = fmt::format(", {} prompts answered and safe (the input is not to be seen here)",
                       count(l.committed_rows));
  }
  return text + marks_of(l) + "\n  the same `nightshift run` command continues it\n";
}

}  // namespace

std::string to_text(const Liveness& l, const fs::path& output) {
  const std::string text = fmt::format("{}: {}", output.string(), l.state);
  if (l.state == "finished")
    return text + fmt::format(", {} rows{}\n", format_count(static_cast<double>(l.rows)), marks_of(l));
  return text + (l.state == "running" ? running_text(l) : ended_text(l));
}

std::string to_json(const Liveness& l) {
  const bool running = l.state == "running" && l.status.has_value();
  const std::uint64_t done = running ? l.status->done : l.committed_rows;
  const std::uint64_t all = running ? l.status->samples_total : l.rows;
  json out{{"state", l.state},      {"holder", l.holder},
           {"rows", l.rows},        {"committed_rows", l.committed_rows},
           {"failed", l.failed},    {"done", done},
           {"restarts", l.restarts}};
  out["left"] = all > 0 ? json(all - std::min(done, all)) : json();
  out["status"] = l.status ? json::parse(l.status->to_json()) : json();
  return out.dump();
}

}  // namespace nightshift::runtime
