// SPDX-License-Identifier: Apache-2.0
#include "parallel/layout/shift_policy.h"

#include <charconv>

#include "core/check.h"

namespace nightshift::parallel {
namespace {

using Mode = ShiftPolicy::Mode;

constexpr double kBand = 0.1;  // of an automatic threshold: about what timing and fit are worth
constexpr std::string_view kRandom = "random:";

struct Setting {
  Mode mode = Mode::never;
  bool automatic = false;
  std::uint64_t number = 0;  // token count or seed
};

std::optional<std::uint64_t> number_in(std::string_view text) {
  std::uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || stop != end) return std::nullopt;
  return number;
}

Setting parse(std::string_view text) {
  if (text == "never") return {.mode = Mode::never};
  if (text == "always") return {.mode = Mode::always};
  if (text == "auto") return {.mode = Mode::threshold, .automatic = true};
  const bool random = text.starts_with(kRandom);
  const auto number = number_in(random ? text.substr(kRandom.size()) : text);
  if (!number)
    throw BadInput(fmt::format("parallel.shift is \"{}\"", text),
                   "it takes auto, never, always, a token count, or random:SEED");
  return {.mode = random ? Mode::random : Mode::threshold, .number = *number};
}

// A layout from a counter, not a sequence: steps may be asked about in any order (splitmix64, Steele et al.
// 2014).
std::uint64_t scramble(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

ShiftPolicy::ShiftPolicy(std::string_view text, const Degrees& degrees,
                         std::optional<Calibration> calibration) {
  const Setting setting = parse(text);
  if (degrees.sequence == 1) {
    description_ = fmt::format("{}: base in every step (sequence degree 1: the layouts are the same)", text);
    return;
  }
  mode_ = setting.mode;
  seed_ = setting.number;
  const char* why = "";
  if (setting.automatic) {
    if (!calibration)
      throw BadInput("parallel.shift is \"auto\", but no step times were measured",
                     "time both layouts, or set it to never, always or a token count");
    threshold_ = calibration->crossover();
    band_ = kBand;
    why = " (by the times measured)";
    if (!threshold_) mode_ = Mode::always;
  } else if (mode_ == Mode::threshold) {
    threshold_ = static_cast<double>(setting.number);
  }
  if (threshold_ && *threshold_ == 0.0) {  // every step has tokens
    mode_ = Mode::never;
    threshold_.reset();
  }
  switch (mode_) {
    case Mode::never:
      description_ = fmt::format("{}: base in every step{}", text, why);
      break;
    case Mode::always:
      description_ = fmt::format("{}: shift in every step{}", text, why);
      break;
    case Mode::random:
      description_ = fmt::format("{}: either layout, by step number", text);
      break;
    case Mode::threshold:
      description_ = fmt::format("{}: base above {:.0f} tokens{}", text, *threshold_,
                                 setting.automatic ? " (+-10 %)" : "");
  }
}

Layout ShiftPolicy::choose(const BatchPlan& plan) {
  switch (mode_) {
    case Mode::never:
      return Layout::base;
    case Mode::always:
      return Layout::shift;
    case Mode::random:
      return (scramble(scramble(seed_) + plan.step) >> 63) == 0 ? Layout::base : Layout::shift;
    case Mode::threshold:
      break;
  }
  const double tokens = plan.query_tokens;
  const double band = plan.tail ? 0.0 : band_ * *threshold_;
  if (tokens > *threshold_ + band)
    last_ = Layout::base;
  else if (tokens < *threshold_ - band || band == 0.0)
    last_ = Layout::shift;
  return last_;
}

bool setting_shifts(std::string_view text, const Degrees& degrees) {
  const Setting setting = parse(text);
  const bool base_only = setting.mode == Mode::never ||
                         (setting.mode == Mode::threshold && !setting.automatic && setting.number == 0);
  return degrees.sequence > 1 && !base_only;
}

}  // namespace nightshift::parallel
