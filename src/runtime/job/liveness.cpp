// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/liveness.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "io/inspect.h"
#include "runtime/job/finalize.h"

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
    const Harvest harvest = look_at_harvest(Session(dir).read_job());
    out.committed_rows = harvest.committed_rows;
    out.rows = harvest.rows;
  } catch (const Error&) {
    // A journal folder that is just being made, or an input that has gone: the status says what is known.
  }
}

std::string stopped_or_dead(const fs::path& dir) {
  const std::vector<RunRecord> runs = Session(dir).read_runs();
  return !runs.empty() && !runs.back().stopped_by.empty() ? "stopped" : "dead";
}

}  // namespace

Liveness look_at_job(const fs::path& output) {
  Liveness out;
  fs::path dir = output;
  dir += ".journal";
  if (fs::is_directory(dir)) {
    out.status = Session(dir).read_status();
    out.holder = living_holder(dir);
    out.state = out.holder.empty() ? stopped_or_dead(dir) : "running";
    if (out.holder.empty()) count_journals(dir, out);
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

std::string to_text(const Liveness& l, const fs::path& output) {
  std::string text = fmt::format("{}: {}", output.string(), l.state);
  if (l.state == "finished")
    return text + fmt::format(", {} rows\n", format_count(static_cast<double>(l.rows)));
  if (l.state == "running") {
    text += fmt::format(" ({})\n", l.holder);
    if (l.status) {
      text +=
          fmt::format("  {}\n  {} ranks, {} prompt and {} output tokens in {}\n", progress_line(*l.status),
                      l.status->ranks, format_count(static_cast<double>(l.status->prompt_tokens)),
                      format_count(static_cast<double>(l.status->output_tokens)),
                      format_duration(l.status->elapsed_seconds));
    }
    return text;
  }
  if (l.rows > 0) {
    text += fmt::format(", {} of {} prompts answered and safe",
                        format_count(static_cast<double>(l.committed_rows)),
                        format_count(static_cast<double>(l.rows)));
  }
  return text + "\n  the same `nightshift run` command continues it\n";
}

std::string to_json(const Liveness& l) {
  json out{{"state", l.state}, {"holder", l.holder}, {"rows", l.rows}, {"committed_rows", l.committed_rows}};
  out["status"] = l.status ? json::parse(l.status->to_json()) : json();
  return out.dump();
}

}  // namespace nightshift::runtime
