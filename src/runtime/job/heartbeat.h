// SPDX-License-Identifier: Apache-2.0
// Is every rank getting on? Each keeps a count of its steps in a file of its own, DIR/beat-RANK, so that the
// launcher sees which of them stands still, on any host that shares the folder, also when it is rank 0 or MPI
// itself that hangs. What counts is that the number changes, by the launcher's clock: no clocks are compared.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace nightshift::runtime {

// Of a rank. The engine only counts; a thread writes, and only what has changed. A file system that cannot
// take it is no reason to stop a rank.
class Heartbeat {
 public:
  // A negative rank beats for nobody: no file, no thread.
  Heartbeat(const std::filesystem::path& dir, int rank, double period_seconds);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  void beat() { count_.fetch_add(1, std::memory_order_relaxed); }  // "I am getting on"; any thread
  // From now on this rank itself must get on (true), or it waits for what others do (false): as at first,
  // because ranks load together.
  void working(bool yes) { working_.store(yes, std::memory_order_relaxed); }

 private:
  void keep_writing(double period_seconds);
  void write(std::uint64_t count, bool working) const;

  std::filesystem::path file_;
  std::atomic<std::uint64_t> count_{1};
  std::atomic<bool> working_{false};
  std::mutex mutex_;
  std::condition_variable ended_;
  bool stop_ = false;
  std::thread thread_;
};

// How often a rank writes where a silence of `hang_seconds` is one too long.
double beat_period(double hang_seconds);

struct Beat {
  std::uint64_t count = 0;
  bool working = false;  // see Heartbeat::working()
  std::string host;

  bool operator==(const Beat&) const = default;
};
std::map<int, Beat> read_beats(const std::filesystem::path& dir);  // by rank; unreadable ones are left out
void remove_beats(const std::filesystem::path& dir);

// The rule, without files and clocks. A working rank hangs when its count has stood still for `hang_seconds`;
// one that waits, when nobody's has moved for so long, and at least for a minute. Time in which the launcher
// itself did not look (an allocation that was suspended, say) does not count.
class HangWatch {
 public:
  HangWatch(double hang_seconds, double now) : hang_seconds_(hang_seconds), looked_(now) {}

  struct Silent {
    int rank = -1;  // -1: none has said a word
    std::string host;
    double seconds = 0.0;
  };
  // The rank that has been silent longest, when that is too long. To be called every beat_period().
  std::optional<Silent> look(const std::map<int, Beat>& beats, double now);

 private:
  struct Seen {
    Beat beat;
    double changed = 0.0;
  };
  std::optional<Silent> longest_silence() const;

  double hang_seconds_;
  double looked_;        // when, by the caller's clock
  double clock_ = 0.0;   // seconds of looking
  double latest_ = 0.0;  // any beat, by clock_
  std::map<int, Seen> seen_;
};

}  // namespace nightshift::runtime
