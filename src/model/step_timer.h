// SPDX-License-Identifier: Apache-2.0
// Where the time of a step goes, by kind of operation. Backends that return before the work is done would
// need events; on CPU a call is finished when it returns.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

namespace nightshift::model {

enum class Op : std::uint8_t {
  embed,
  norm,
  qkv,
  rope,
  append,
  attention,
  o,
  gate_up,
  down,
  exchange,  // data on its way between ranks, and waiting for them
  reduce,
  head,
  sample,
  other
};
constexpr std::array kOpNames{"embed",   "norm", "qkv",      "rope",   "append", "attention", "o",
                              "gate_up", "down", "exchange", "reduce", "head",   "sample",    "other"};
static_assert(kOpNames.size() == static_cast<std::size_t>(Op::other) + 1);

class StepTimer {
 public:
  using Clock = std::chrono::steady_clock;

  // What follows is of this kind, until the next call.
  void at(Op op) {
    const auto now = Clock::now();
    if (running_) seconds_[current_] += std::chrono::duration<double>(now - since_).count();
    since_ = now;
    running_ = true;
    current_ = static_cast<std::size_t>(op);
    ++calls_[current_];
  }
  void stop() {
    at(Op::other);
    --calls_[current_];
    running_ = false;
  }
  double seconds(std::size_t op) const { return seconds_[op]; }
  std::uint64_t calls(std::size_t op) const { return calls_[op]; }

 private:
  std::array<double, kOpNames.size()> seconds_{};
  std::array<std::uint64_t, kOpNames.size()> calls_{};
  std::size_t current_ = 0;
  bool running_ = false;
  Clock::time_point since_{};
};

}  // namespace nightshift::model
