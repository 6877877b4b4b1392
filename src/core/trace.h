// SPDX-License-Identifier: Apache-2.0
// What a rank did when, for the Chrome trace viewer (chrome://tracing, Perfetto): one row per rank.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace nightshift {

// Complete events of one thread, kept in memory up to a bound; what comes later is counted and dropped.
class TraceLog {
 public:
  using Clock = std::chrono::steady_clock;
  // `origin`: the zero of the time axis, the same moment on all ranks of a host.
  explicit TraceLog(Clock::time_point origin, std::size_t most_events = 200'000);

  // `name`: a literal or otherwise alive as long as the log. `tokens` >= 0 is shown with the event.
  void add(const char* name, Clock::time_point begin, Clock::time_point end, std::int64_t tokens = -1);
  std::uint64_t dropped() const { return dropped_; }

  // This log's events as elements of a traceEvents array, comma-separated, no brackets; `replica` becomes the
  // process row and `rank` the thread row, with metadata events that name them.
  std::string events_json(int replica, int rank) const;

 private:
  struct Event {
    const char* name;
    double begin_us, duration_us;
    std::int64_t tokens;
  };
  Clock::time_point origin_;
  std::size_t most_events_;
  std::vector<Event> events_;
  std::uint64_t dropped_ = 0;
};

// Adds an event from its construction to its end; nothing without a log.
class TraceScope {
 public:
  TraceScope(TraceLog* log, const char* name, std::int64_t tokens = -1)
      : log_(log),
        name_(name),
        tokens_(tokens),
        begin_(log != nullptr ? TraceLog::Clock::now() : TraceLog::Clock::time_point()) {}
  ~TraceScope() {
    if (log_ != nullptr) log_->add(name_, begin_, TraceLog::Clock::now(), tokens_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  TraceLog* log_;
  const char* name_;
  std::int64_t tokens_;
  TraceLog::Clock::time_point begin_;
};

}  // namespace nightshift
