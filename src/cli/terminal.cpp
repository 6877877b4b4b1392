// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>

namespace nightshift::cli {
namespace {

constexpr std::chrono::seconds kQuietPeriod{10};  // between lines that stay, e.g. in a Slurm log

std::size_t columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

Terminal::Terminal() : rewrites_(::isatty(STDERR_FILENO) == 1) {}

Terminal::~Terminal() {
  clear();
}

void Terminal::clear() {
  if (!shown_.empty()) std::cerr << "\r\x1b[K" << std::flush;
  shown_.clear();
}

void Terminal::message(const std::string& line) {
  const std::string again = shown_;
  clear();
  std::cerr << line << "\n" << again << std::flush;
  shown_ = again;
}

void Terminal::progress(const std::string& state, const std::string& line) {
  if (rewrites_) {
    const std::string fitting = line.substr(0, columns() - 1);
    if (fitting == shown_) return;
    std::cerr << "\r\x1b[K" << fitting << std::flush;
    shown_ = fitting;
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (state == state_ && now < next_) return;
  state_ = state;
  next_ = now + kQuietPeriod;
  std::cerr << line << std::endl;
}

}  // namespace nightshift::cli
