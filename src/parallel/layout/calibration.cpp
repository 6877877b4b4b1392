// SPDX-License-Identifier: Apache-2.0
// Step times of both layouts, fitted to measured steps, and what follows from them.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/check.h"
#include "parallel/layout/shift_policy.h"

namespace nightshift::parallel {
namespace {

// Unknowns: fixed and per_token of both layouts, and the per_key that they share: attention runs head by head
// on the same ranks in both, so what one layout shows of it holds for the other.
constexpr std::size_t kUnknowns = 5;
using Coefficients = std::array<double, kUnknowns>;
using Matrix = std::array<Coefficients, kUnknowns>;

// One sample's relative time, weighted: the product of `terms` with the solution is to be `value`.
struct Equation {
  Coefficients terms{};
  double value = 1.0;
};

Equation equation(const StepSample& sample, double weight) {
  const auto layout = static_cast<std::size_t>(sample.layout);
  Equation result{.value = weight};
  result.terms[layout] = weight / sample.seconds;
  result.terms[2 + layout] = weight * sample.tokens / sample.seconds;
  result.terms[4] = weight * sample.context / sample.seconds;
  return result;
}

double dot(const Coefficients& a, const Coefficients& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < kUnknowns; ++i) sum += a[i] * b[i];
  return sum;
}

// Lengths of the columns over all equations; dividing by them makes seconds, tokens and keys comparable.
Coefficients column_norms(const std::vector<Equation>& equations) {
  Coefficients norms{};
  for (const auto& [terms, value] : equations)
    for (std::size_t i = 0; i < kUnknowns; ++i) norms[i] += terms[i] * terms[i];
  for (double& norm : norms) norm = std::sqrt(norm);
  return norms;
}

// Solves A x = y by Gaussian elimination for the unknowns of `chosen` (bit i: unknown i), the others being 0.
// A is symmetric with unit diagonal; false where the chosen columns are all but dependent.
bool solve(Matrix a, Coefficients y, unsigned chosen, Coefficients& x) {
  constexpr double kLeastPivot = 1e-9;
  const auto in = [chosen](std::size_t i) { return (chosen >> i & 1U) != 0; };
  for (std::size_t i = 0; i < kUnknowns; ++i) {
    if (!in(i)) continue;
    if (!(a[i][i] > kLeastPivot)) return false;
    for (std::size_t j = i + 1; j < kUnknowns; ++j) {
      if (!in(j)) continue;
      const double factor = a[j][i] / a[i][i];
      for (std::size_t k = i; k < kUnknowns; ++k) a[j][k] -= factor * a[i][k];
      y[j] -= factor * y[i];
    }
  }
  x.fill(0.0);
  for (std::size_t i = kUnknowns; i-- > 0;) {
    if (!in(i)) continue;
    double rest = y[i];
    for (std::size_t k = i + 1; k < kUnknowns; ++k) rest -= a[i][k] * x[k];
    x[i] = rest / a[i][i];
  }
  return true;
}

double squared_error(const std::vector<Equation>& equations, const Coefficients& x) {
  double sum = 0.0;
  for (const auto& [terms, value] : equations) {
    const double error = dot(terms, x) - value;
    sum += error * error;
  }
  return sum;
}

// Non-negative least squares (Lawson and Hanson 1974): the best solution is the plain one over the unknowns
// that are not 0 in it. With five there are 32 sets, so all are tried. Fewer terms win where more do not
// explain more: with a single sample per layout, its time becomes the fixed part.
Coefficients nonnegative_least_squares(const std::vector<Equation>& equations) {
  const Coefficients norms = column_norms(equations);
  Matrix a{};
  Coefficients y{};
  for (std::size_t i = 0; i < kUnknowns; ++i) {
    if (norms[i] == 0.0) continue;
    for (const auto& [terms, value] : equations) {
      y[i] += terms[i] / norms[i] * value;
      for (std::size_t k = 0; k < kUnknowns; ++k)
        if (norms[k] > 0.0) a[i][k] += terms[i] / norms[i] * (terms[k] / norms[k]);
    }
  }
  const double negligible = 1e-16 * squared_error(equations, {});
  Coefficients best{};
  double least = squared_error(equations, best);
  for (int terms = 1; terms <= static_cast<int>(kUnknowns); ++terms) {
    for (unsigned chosen = 1; chosen < 1U << kUnknowns; ++chosen) {
      Coefficients x{};
      if (std::popcount(chosen) != terms || !solve(a, y, chosen, x)) continue;
      if (std::any_of(x.begin(), x.end(), [](double value) { return value < 0.0; })) continue;
      for (std::size_t i = 0; i < kUnknowns; ++i)
        if (norms[i] > 0.0) x[i] /= norms[i];
      const double error = squared_error(equations, x);
      if (error >= least - negligible) continue;
      least = error;
      best = x;
    }
  }
  return best;
}

// The lines that explain the samples best; where `near` is given, mostly those of about so many tokens.
Calibration fit_lines(std::span<const StepSample> samples, std::optional<double> near = {}) {
  std::vector<Equation> equations;
  double most_tokens = 0.0;
  for (const StepSample& sample : samples) {
    const double distance = near ? std::log(sample.tokens / *near) : 0.0;
    equations.push_back(equation(sample, std::exp(-distance * distance)));
    most_tokens = std::max(most_tokens, sample.tokens);
  }
  const Coefficients x = nonnegative_least_squares(equations);
  return {.base = {x[0], x[2], x[4]}, .shift = {x[1], x[3], x[4]}, .most_tokens = most_tokens};
}

// Measured times are no straight lines: a step takes the longer of reading weights and computing, and that
// bend moves the crossing of lines fitted to everything by half. So the lines are fitted anew around where
// they cross until the crossing stays; where it runs away, the first one stands.
double refined_crossing(std::span<const StepSample> samples, const Calibration& whole) {
  constexpr int kPasses = 6;
  const double first = whole.crossover().value_or(0.0);
  double crossing = first;
  for (int pass = 0; pass < kPasses && crossing > 0.0; ++pass) {
    const double near = std::clamp(crossing, 1.0, std::max(1.0, whole.most_tokens));
    crossing = fit_lines(samples, near).crossover().value_or(0.0);
  }
  return crossing > first / 4.0 && crossing < first * 4.0 ? crossing : first;
}

nlohmann::json as_json(const StepTime& time) {
  return {{"fixed", time.fixed}, {"per_token", time.per_token}, {"per_key", time.per_key}};
}

StepTime step_time(const nlohmann::json& json) {
  const StepTime time{json.at("fixed").get<double>(), json.at("per_token").get<double>(),
                      json.at("per_key").get<double>()};
  for (const double value : {time.fixed, time.per_token, time.per_key})
    if (!(value >= 0.0)) throw Error(fmt::format("step times: {} is not a time", value));
  return time;
}

}  // namespace

Calibration Calibration::fit(std::span<const StepSample> samples) {
  std::array<int, 2> count{};
  for (const StepSample& sample : samples) {
    if (!(sample.seconds > 0.0) || !std::isfinite(sample.seconds) || !(sample.tokens > 0.0) ||
        !(sample.context >= 0.0))
      throw Error(fmt::format("calibration: a step of {} tokens and {} keys in layout {} took {} s",
                              sample.tokens, sample.context, name_of(sample.layout), sample.seconds));
    ++count[static_cast<std::size_t>(sample.layout)];
  }
  if (count[0] == 0 || count[1] == 0)
    throw Error(
        fmt::format("calibration: {} samples of the base layout, {} of the shift layout", count[0], count[1]),
        "time both, or set parallel.shift to a token count");
  Calibration result = fit_lines(samples);
  result.crossing = refined_crossing(samples, result);
  return result;
}

// Where the lines cross. Physically the shift layout reads fewer weights and sends more per token; measured
// lines that cross the other way round, or run in parallel, are judged by the largest steps that were timed,
// where most of a job's time goes.
std::optional<double> Calibration::crossover() const {
  if (crossing > 0.0) return crossing;
  const double saved_fixed = base.fixed - shift.fixed;
  const double saved_per_token = shift.per_token - base.per_token;
  if (saved_per_token > 0.0) return std::max(0.0, saved_fixed / saved_per_token);
  if (base(most_tokens) < shift(most_tokens)) return 0.0;
  return std::nullopt;
}

// With d decodes in every step and the crossover at n, a run of mixed steps costs most, against pure decodes
// and one bulk step of g prefill tokens, if each mixed step just reaches n: with p = n - d prefill tokens.
// (The lower of two lines is concave with its bend there.) Apart, the share
//     (shift.per_token - base.per_token) * p * (1 - p / g) / time(n)
// is saved: ever less from every further token of g, while sequences wait in empty places for it. So the
// group is the smallest that saves nine tenths of what the largest would.
int Calibration::prefill_group(int token_budget, int typical_decodes) const {
  const double decodes = std::max(1, typical_decodes);
  const double bend = crossover().value_or(0.0);
  const double largest = token_budget - decodes;
  const double mixed = bend - decodes;
  if (mixed <= 0.0 || largest <= mixed) return 0;
  const double kept = 0.9 * (1.0 - mixed / largest);
  const double saving = (shift.per_token - base.per_token) * mixed * kept / base(bend);
  return saving < 0.02 ? 0 : static_cast<int>(std::ceil(mixed / (1.0 - kept)));
}

std::string Calibration::to_json() const {
  return nlohmann::json{{"base", as_json(base)},
                        {"shift", as_json(shift)},
                        {"most_tokens", most_tokens},
                        {"crossing", crossing}}
      .dump();
}

Calibration Calibration::from_json(std::string_view json) {
  try {
    const nlohmann::json read = nlohmann::json::parse(json);
    Calibration result;
    result.base = step_time(read.at("base"));
    result.shift = step_time(read.at("shift"));
    result.most_tokens = read.at("most_tokens").get<double>();
    result.crossing = read.at("crossing").get<double>();
    return result;
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("step times: {}", error.what()), "calibrate again");
  }
}

}  // namespace nightshift::parallel
