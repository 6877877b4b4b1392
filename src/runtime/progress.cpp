// SPDX-License-Identifier: Apache-2.0
#include "runtime/progress.h"

#include <algorithm>
#include <array>
#include <ctime>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

constexpr double kPeriod = 0.5;       // seconds between updates
constexpr double kRateWindow = 20.0;  // seconds the shown rate and the ETA look back
enum Counter { done, failed, running, prompt_tokens, output_tokens, taken_up_tokens, kCounters };

}  // namespace

Progress::Progress(const parallel::Communicator& leaders, int ranks, const Session& session,
                   std::uint64_t samples, std::uint64_t before, std::uint64_t failed_before, int restarts)
    : leaders_(leaders),
      session_(session),
      board_(leaders, kCounters),
      before_(before),
      failed_before_(failed_before) {
  status_.samples_total = std::max(samples, before);
  status_.ranks = ranks;
  status_.restarts = restarts;
  status_.host = parallel::Communicator::host_name();
}

double Progress::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

void Progress::tick(const RunCounters& counters, std::size_t active, bool force) {
  const double at = now();
  if (at < next_ && !force) return;
  next_ = at + kPeriod;
  std::array<std::int64_t, kCounters> mine{};
  mine[done] = static_cast<std::int64_t>(counters.prompts_done);
  mine[failed] = static_cast<std::int64_t>(counters.prompts_failed);
  mine[running] = static_cast<std::int64_t>(active);
  mine[prompt_tokens] = static_cast<std::int64_t>(counters.prompt_tokens);
  mine[output_tokens] = static_cast<std::int64_t>(counters.output_tokens);
  mine[taken_up_tokens] = static_cast<std::int64_t>(counters.taken_up_tokens);
  board_.publish(mine);
  if (leaders_.rank() == 0) write(at);
}

void Progress::note(const std::string& state, const std::string& text) {
  const double at = now();
  if (leaders_.rank() != 0 || (at < next_ && status_.state == state)) return;
  next_ = at + kPeriod;
  status_.state = state;
  status_.note = text;
  status_.done = before_;
  status_.failed = failed_before_;
  status_.elapsed_seconds = at;
  save();
}

void Progress::end(bool complete) {
  if (leaders_.rank() != 0) return;
  status_.state = complete ? "finalizing" : "stopped";
  status_.note.clear();
  status_.running = 0;
  status_.eta_seconds = -1.0;
  status_.elapsed_seconds = now();
  save();
}

// A status that cannot be written now (a file server that is away for a moment) must not end a job.
void Progress::save() const {
  Status status = status_;
  status.updated_unix = std::time(nullptr);
  try {
    session_.write_status(status);
  } catch (const Error&) {
  }
}

void Progress::write(double at) {
  const std::vector<std::int64_t> all = board_.totals();
  const auto total = [&](Counter c) { return static_cast<std::uint64_t>(all[c]); };
  status_.state = "running";
  status_.note.clear();
  status_.done = before_ + total(done) + total(failed);
  status_.failed = failed_before_ + total(failed);
  status_.running = total(running);
  status_.prompt_tokens = total(prompt_tokens);
  status_.output_tokens = total(output_tokens);
  status_.taken_up_tokens = total(taken_up_tokens);
  status_.samples_total = std::max(status_.samples_total, status_.done);
  status_.elapsed_seconds = at;
  measure_rate(status_, at);
  save();
}

void Progress::measure_rate(Status& status, double at) {
  recent_.push_back({at, status.prompt_tokens + status.output_tokens, status.done});
  while (recent_.size() > 2 && at - recent_.front().at > kRateWindow) recent_.pop_front();
  const Moment& first = recent_.front();
  const double seconds = at - first.at;
  if (seconds <= 0) return;
  status.tokens_per_second = static_cast<double>(recent_.back().tokens - first.tokens) / seconds;
  const double samples_per_second = static_cast<double>(status.done - first.samples) / seconds;
  const auto left = static_cast<double>(status.samples_total - status.done);
  status.eta_seconds = samples_per_second > 0 ? left / samples_per_second : -1.0;
}

}  // namespace nightshift::runtime
