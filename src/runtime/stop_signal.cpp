// SPDX-License-Identifier: Apache-2.0
#include "runtime/stop_signal.h"

#include <algorithm>
#include <array>
#include <csignal>

namespace nightshift::runtime {
namespace {

constexpr std::array kSignals{SIGINT, SIGTERM, SIGUSR1};
volatile std::sig_atomic_t received = 0;
std::array<struct sigaction, kSignals.size()> before;

void note(int signal) {
  received = signal;
}

}  // namespace

StopSignal::StopSignal() {
  struct sigaction action = {};
  action.sa_handler = note;
  action.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &before[i]);
}

StopSignal::~StopSignal() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before[i], nullptr);
}

bool StopSignal::asked() {
  return received != 0;
}

const char* StopSignal::name() {
  switch (received) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return "";
  }
}

StopTime::StopTime(std::optional<double> seconds_left, double margin) {
  if (!seconds_left || *seconds_left <= 0) return;
  const double left = std::min(*seconds_left, 1e9);
  const std::chrono::duration<double> until(left - std::min(margin, left / 2));
  at_ = std::chrono::steady_clock::now() +
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(until);
}

}  // namespace nightshift::runtime
