// SPDX-License-Identifier: Apache-2.0
// Memory that the kernel cannot take back: resident pages without a file behind them. Linux keeps no peak of
// it (VmHWM counts the page cache that is mapped as well), so a thread looks every few milliseconds.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <string>
#include <thread>

namespace nightshift::test {

// Sanitizers keep several bytes for each of the program's: bounds of memory are not checked in their builds.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

class PeakAnonymous {
 public:
  PeakAnonymous() : start_(now_bytes()), peak_(start_), watch_([this] { look_on(); }) {}
  ~PeakAnonymous() {
    done_ = true;
    watch_.join();
  }
  PeakAnonymous(const PeakAnonymous&) = delete;
  PeakAnonymous& operator=(const PeakAnonymous&) = delete;

  std::uint64_t bytes() const { return std::max(peak_.load(), now_bytes()); }  // of this process, so far
  std::uint64_t growth() const { return bytes() - start_; }                    // since construction

 private:
  static std::uint64_t now_bytes() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("RssAnon:")) return std::stoull(line.substr(8)) * 1024;
    }
    return 0;
  }
  void look_on() {
    for (; !done_; std::this_thread::sleep_for(std::chrono::milliseconds(2)))
      peak_ = std::max(peak_.load(), now_bytes());
  }

  std::uint64_t start_;
  std::atomic<std::uint64_t> peak_;
  std::atomic<bool> done_{false};
  std::thread watch_;
};

}  // namespace nightshift::test
