// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/heartbeat.h"

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <utility>
#include <vector>

#include "core/check.h"
#include "io/files.h"

namespace nightshift::runtime {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "beat-";
constexpr double kLeastPatience = 60.0;  // with a launcher that starts ranks, and ranks that load

std::vector<fs::path> beat_files(const fs::path& dir) {
  std::vector<fs::path> files;
  std::error_code gone;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, gone)) {
    if (entry.path().filename().string().starts_with(kPrefix)) files.push_back(entry.path());
  }
  return files;
}

}  // namespace

double beat_period(double hang_seconds) {
  return hang_seconds > 0.0 ? std::clamp(hang_seconds / 10.0, 0.05, 5.0) : 5.0;
}

Heartbeat::Heartbeat(const fs::path& dir, int rank, double period_seconds)
    : file_(dir / fmt::format("{}{:05}", kPrefix, rank)) {
  if (rank >= 0) thread_ = std::thread([this, period_seconds] { keep_writing(period_seconds); });
}

Heartbeat::~Heartbeat() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  ended_.notify_one();
  thread_.join();
}

void Heartbeat::keep_writing(double period_seconds) {
  std::pair<std::uint64_t, bool> written{0, false};
  std::unique_lock lock(mutex_);
  do {
    const std::pair now{count_.load(std::memory_order_relaxed), working_.load(std::memory_order_relaxed)};
    if (now != written) write(now.first, now.second);
    written = now;
  } while (!ended_.wait_for(lock, std::chrono::duration<double>(period_seconds), [this] { return stop_; }));
}

// Opened and closed each time: only then does a network file system show the new content to other hosts.
void Heartbeat::write(std::uint64_t count, bool working) const {
  try {
    io::FileHandle file(file_.string(), O_WRONLY | O_CREAT);
    // Of one length, so that a reader never sees the end of a longer line behind a shorter one.
    file.write_at(0, fmt::format("{:020} {} {}\n", count, working ? "works" : "waits", io::host_name()));
    file.close();
  } catch (const Error&) {
  }
}

std::map<int, Beat> read_beats(const fs::path& dir) {
  std::map<int, Beat> beats;
  for (const fs::path& file : beat_files(dir)) {
    int rank = 0;
    if (std::sscanf(file.filename().c_str(), "beat-%d", &rank) != 1) continue;
    std::ifstream in(file);
    Beat beat;
    std::string state;
    if (!(in >> beat.count >> state >> beat.host)) continue;
    beat.working = state == "works";
    beats[rank] = std::move(beat);
  }
  return beats;
}

void remove_beats(const fs::path& dir) {
  std::error_code ignored;
  for (const fs::path& file : beat_files(dir)) fs::remove(file, ignored);
}

std::optional<HangWatch::Silent> HangWatch::look(const std::map<int, Beat>& beats, double now) {
  clock_ += std::min(now - looked_, 2.0 * beat_period(hang_seconds_));
  looked_ = now;
  for (const auto& [rank, beat] : beats) {
    const auto [at, is_new] = seen_.try_emplace(rank);
    if (!is_new && at->second.beat == beat) continue;
    at->second = {beat, clock_};
    latest_ = clock_;
  }
  return hang_seconds_ > 0.0 ? longest_silence() : std::nullopt;
}

std::optional<HangWatch::Silent> HangWatch::longest_silence() const {
  const double patience = std::max(hang_seconds_, kLeastPatience);
  if (seen_.empty() && clock_ >= patience) return Silent{-1, "", clock_};
  std::optional<Silent> longest;
  double oldest = 0.0;  // of ranks that wait equally long, the one that fell silent first
  for (const auto& [rank, seen] : seen_) {
    const double own = clock_ - seen.changed, seconds = seen.beat.working ? own : clock_ - latest_;
    if (seconds < (seen.beat.working ? hang_seconds_ : patience)) continue;
    if (longest && std::pair(seconds, own) <= std::pair(longest->seconds, oldest)) continue;
    longest = Silent{rank, seen.beat.host, seconds};
    oldest = own;
  }
  return longest;
}

}  // namespace nightshift::runtime
