// SPDX-License-Identifier: Apache-2.0
// Format: "Trace Event Format" of the Chromium project, complete ("X") and metadata ("M") events.
#include "core/trace.h"

#include <fmt/format.h>

#include <iterator>
#include <nlohmann/json.hpp>

namespace nightshift {
namespace {

double microseconds(TraceLog::Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump();
}

}  // namespace

TraceLog::TraceLog(Clock::time_point origin, std::size_t most_events)
    : origin_(origin), most_events_(most_events) {}

void TraceLog::add(const char* name, Clock::time_point begin, Clock::time_point end, std::int64_t tokens) {
  if (events_.size() >= most_events_) {
    ++dropped_;
    return;
  }
  events_.push_back({name, microseconds(begin - origin_), microseconds(end - begin), tokens});
}

std::string TraceLog::events_json(int replica, int rank) const {
  fmt::memory_buffer out;
  const auto at = std::back_inserter(out);
  fmt::format_to(at, R"({{"name":"process_name","ph":"M","pid":{0},"args":{{"name":"replica {0}"}}}})",
                 replica);
  fmt::format_to(at,
                 ",\n"
                 R"({{"name":"thread_name","ph":"M","pid":{},"tid":{},"args":{{"name":"rank {}{}"}}}})",
                 replica, rank, rank, dropped_ == 0 ? "" : fmt::format(" ({} events dropped)", dropped_));
  for (const Event& event : events_) {
    // Nanoseconds, as the clock has them: rounding must not make an event outlive the one around it.
    fmt::format_to(at,
                   ",\n"
                   R"({{"name":{},"ph":"X","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f})",
                   quoted(event.name), replica, rank, event.begin_us, event.duration_us);
    if (event.tokens >= 0) fmt::format_to(at, R"(,"args":{{"tokens":{}}})", event.tokens);
    fmt::format_to(at, "}}");
  }
  return fmt::to_string(out);
}

}  // namespace nightshift
