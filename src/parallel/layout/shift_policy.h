// SPDX-License-Identifier: Apache-2.0
// When a replica shifts. Pure: every rank of a replica asks its own copy the same questions and gets the same
// answers, so a shift needs no agreement between ranks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/types.h"
#include "parallel/layout/layout.h"

namespace nightshift::parallel {

// One timed step: `tokens` query tokens, `context` keys that they see, all summed over the step's sequences.
struct StepSample {
  Layout layout = Layout::base;
  double tokens = 0.0;
  double context = 0.0;
  double seconds = 0.0;
};

// seconds = fixed + per_token * tokens + per_key * context: latencies and weight reads, dense work and
// exchanged activations, attention. (First-order cost of shift.md: the layouts differ in the first two.)
struct StepTime {
  double fixed = 0.0;
  double per_token = 0.0;
  double per_key = 0.0;
  double operator()(double tokens, double context = 0.0) const {
    return fixed + per_token * tokens + per_key * context;
  }
};

struct Calibration {
  StepTime base, shift;
  double most_tokens = 0.0;  // of the steps that were timed: beyond, the lines are an extrapolation
  double crossing = 0.0;     // measured more closely than by the two lines; 0: as they cross

  // Least squares of relative errors, coefficients >= 0, one per_key for both layouts. Throws Error without
  // samples of both layouts, or where a sample is no measurement (tokens and seconds > 0). Steps of both
  // layouts at powers of two, from decode to the token budget, find the crossover best.
  static Calibration fit(std::span<const StepSample> samples);

  // Query tokens above which the base layout is faster: 0 always, nullopt never.
  std::optional<double> crossover() const;
  // Prefill tokens worth waiting for while sequences decode (see scheduler::Options::prefill_group): the
  // smallest group at which running prefill apart in bulk steps saves nine tenths of what the largest would;
  // 0 where even prompts that come at the worst rate for mixed steps would gain less than 2 %.
  int prefill_group(int token_budget, int typical_decodes) const;

  std::string to_json() const;
  static Calibration from_json(std::string_view json);
};

class ShiftPolicy {
 public:
  enum class Mode : std::uint8_t { never, always, threshold, random };

  // `setting`: "auto" (needs a calibration), "never" (base only), "always" (shift only), a token count N
  // (base above N), or "random:SEED" (any layout in any step: for tests of byte equality). Throws BadInput.
  // Where both layouts are the same thing (sequence == 1), every step runs in the base layout.
  ShiftPolicy(std::string_view setting, const Degrees& degrees, std::optional<Calibration> calibration = {});

  // The layout of the next step. Between 0.9 and 1.1 of an automatic threshold the last choice stands, but
  // for the tail of the job (plan.tail), where nothing wide will come any more.
  Layout choose(const BatchPlan& plan);

  // Where the choice changes, in query tokens; nullopt: it never does.
  std::optional<double> threshold() const { return threshold_; }
  // For log and report: "auto: base above 212 tokens (+-10 %)".
  const std::string& describe() const { return description_; }

 private:
  Mode mode_ = Mode::never;
  std::optional<double> threshold_;
  double band_ = 0.0;
  std::uint64_t seed_ = 0;
  Layout last_ = Layout::base;
  std::string description_;
};

// Whether this setting may ever leave the base layout. "auto" does when there is more than one rank and the
// layouts differ (sequence > 1).
bool setting_shifts(std::string_view setting, const Degrees& degrees);

}  // namespace nightshift::parallel
