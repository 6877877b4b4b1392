// SPDX-License-Identifier: Apache-2.0
// What a running job shows on stderr: on a terminal one line that rewrites itself, elsewhere a line now and
// then.
#pragma once

#include <chrono>
#include <string>

namespace nightshift::cli {

class Terminal {
 public:
  Terminal();
  ~Terminal();  // ends the rewriting line
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void message(const std::string& line);                             // stays
  void progress(const std::string& state, const std::string& line);  // is replaced by the next one

 private:
  void clear();

  bool rewrites_;
  std::string shown_;  // the line that stands there now, without its end
  std::string state_;
  std::chrono::steady_clock::time_point next_;
};

}  // namespace nightshift::cli
