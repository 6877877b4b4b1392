// SPDX-License-Identifier: Apache-2.0
#include "runtime/calibrate.h"

#include <algorithm>
#include <array>
#include <chrono>

namespace nightshift::runtime {
namespace {

using parallel::Layout;
using parallel::StepSample;

constexpr int kShortContext = 32;
constexpr int kLongContext = 1024;
constexpr int kMostKeys = 16384;    // of a step's contexts together: what is timed must not fill the KV cache
constexpr int kPromptTokens = 256;  // of one made-up prompt
constexpr int kShortestPrompt = 16;
constexpr int kEnoughTokens = 16;  // steps up to this width are timed however slow they are
constexpr double kSlowStep = 0.5;  // seconds; wider steps are not tried after one of these
constexpr double kSureStep = 0.1;  // seconds from which on one run says enough
constexpr double kMostSeconds = 4.0;

struct Point {  // equal sequences: `tokens` query tokens each, after `computed` in the cache
  int sequences = 1;
  int tokens = 1;
  int computed = 0;

  int width() const { return sequences * tokens; }
  int blocks() const { return blocks_each() * sequences; }
  int blocks_each() const { return (computed + tokens + kKvBlockTokens - 1) / kKvBlockTokens; }
};

bool fits(const Point& point, const model::StepLimits& limits) {
  return point.sequences <= limits.max_sampled_rows && point.width() <= limits.max_query_tokens &&
         point.computed + point.tokens <= limits.max_context && point.blocks() <= limits.kv_blocks;
}

// Powers of two, every kind of step of a width before the next width. Long contexts show at few widths.
std::vector<Point> points_of(const model::StepLimits& limits) {
  const auto most = static_cast<int>(limits.max_context - 1);
  std::vector<Point> points;
  const auto add = [&](const Point& point) {
    if (fits(point, limits)) points.push_back(point);
  };
  for (int width = 1, doublings = 0; width <= limits.max_query_tokens; width *= 2, ++doublings) {
    add({width, 1, std::min(kShortContext, most)});
    const int longer = std::min({kLongContext, kMostKeys / width, most});
    if (doublings % 2 == 0 && longer > 2 * kShortContext) add({width, 1, longer});
    const int tokens = std::min({width, kPromptTokens, most});
    if (tokens >= kShortestPrompt) add({width / tokens, tokens, 0});
  }
  return points;
}

// A plan and what it points to.
class MadeUpStep {
 public:
  explicit MadeUpStep(const Point& point) {
    const auto known = static_cast<std::size_t>(point.computed + point.tokens);
    tokens_.resize(known);
    for (std::size_t i = 0; i < known; ++i) tokens_[i] = static_cast<TokenId>(i % 16);
    blocks_.resize(static_cast<std::size_t>(point.blocks()));
    for (std::size_t i = 0; i < blocks_.size(); ++i) blocks_[i] = static_cast<BlockId>(i);
    const auto each = static_cast<std::size_t>(point.blocks_each());
    for (int s = 0; s < point.sequences; ++s) {
      const auto first = static_cast<std::size_t>(s) * each;
      plan_.sequences.push_back({.id = static_cast<SequenceId>(s) + 1,
                                 .computed = point.computed,
                                 .num_tokens = point.tokens,
                                 .samples = true,
                                 .prompt_tokens = point.computed + point.tokens,
                                 .tokens = tokens_,
                                 .blocks = std::span<const BlockId>(blocks_).subspan(first, each),
                                 .sampling = &greedy_});
    }
    plan_.query_tokens = point.width();
    plan_.decode_tokens = point.tokens == 1 ? point.width() : 0;
  }
  MadeUpStep(const MadeUpStep&) = delete;
  MadeUpStep& operator=(const MadeUpStep&) = delete;

  const BatchPlan& plan() const { return plan_; }

 private:
  std::vector<TokenId> tokens_;  // of every sequence
  std::vector<BlockId> blocks_;  // [sequences][blocks of one]
  SamplingParams greedy_;
  BatchPlan plan_;
};

// One run, on the slowest rank.
double run_once(const RunStep& run, const BatchPlan& plan, Layout layout,
                const parallel::Communicator& replica) {
  using Clock = std::chrono::steady_clock;
  replica.barrier();
  const auto start = Clock::now();
  run(plan, layout);
  const auto taken = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
  return 1e-9 * static_cast<double>(replica.max(taken));
}

// The median of three after a first run that warms up, or that first one where it is long enough to tell.
// `spent` grows by all of them.
double time_step(const RunStep& run, const BatchPlan& plan, Layout layout,
                 const parallel::Communicator& replica, double& spent) {
  const double first = run_once(run, plan, layout, replica);
  spent += first;
  if (first >= kSureStep) return first;
  std::array<double, 3> seconds{};
  for (double& one : seconds) spent += one = run_once(run, plan, layout, replica);
  std::sort(seconds.begin(), seconds.end());
  return seconds[1];
}

}  // namespace

std::vector<StepSample> time_layouts(const RunStep& run, const model::StepLimits& limits,
                                     const parallel::Communicator& replica) {
  std::vector<StepSample> samples;
  double spent = 0.0;
  double slowest = 0.0;
  for (const Point& point : points_of(limits)) {
    if (point.width() > kEnoughTokens && (slowest > kSlowStep || spent > kMostSeconds)) break;
    const MadeUpStep step(point);
    for (const Layout layout : {Layout::base, Layout::shift}) {
      const double seconds = time_step(run, step.plan(), layout, replica, spent);
      slowest = std::max(slowest, seconds);
      samples.push_back({layout, static_cast<double>(point.width()),
                         static_cast<double>(point.sequences) * (point.computed + point.tokens), seconds});
    }
  }
  return samples;
}

parallel::Calibration calibrate(model::Model& model, const parallel::DeviceMesh& mesh) {
  const auto run = [&model](const BatchPlan& plan, Layout layout) {
    model.submit(plan, layout);
    model.collect();
  };
  const auto samples = time_layouts(run, model.limits(), mesh.replica());
  std::string text;
  if (mesh.world().rank() == 0) text = parallel::Calibration::fit(samples).to_json();
  mesh.world().broadcast(text);
  return parallel::Calibration::from_json(text);  // on rank 0 as well: what is written is what holds
}

}  // namespace nightshift::runtime
