// SPDX-License-Identifier: Apache-2.0
#include "cli/starts.h"

#include <chrono>
#include <ctime>
#include <fstream>
#include <iterator>
#include <set>
#include <vector>

#include "core/check.h"
#include "io/manifest.h"
#include "runtime/job/in_work.h"
#include "runtime/job/liveness.h"
#include "runtime/job/nodes.h"

namespace nightshift::cli {
namespace {

namespace fs = std::filesystem;
using runtime::Scope;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string text_of(const runtime::HangWatch::Silent& silent) {
  if (silent.rank < 0) return fmt::format("no rank has said a word for {:.0f} s", silent.seconds);
  return fmt::format("rank {} on {} has got nowhere for {:.0f} s", silent.rank, silent.host, silent.seconds);
}

// A launcher's own words on a killed rank, where it has some.
std::string text_of(const RanksEnd& end) {
  for (const std::string& line : end.launcher) {
    if (line.find("exited on signal") != std::string::npos && !end.given_up) return line;
  }
  return end.given_up ? "the ranks were ended" : fmt::format("the ranks ended with exit code {}", end.code);
}

// The answers that a row still owes; of a row without any, nobody knows how many it would have given.
std::vector<io::ResultRecord> crashed_answers(const io::JournalIndex& index, PromptRow row, int tries) {
  const auto there = index.read(row);
  const std::int32_t samples = there.empty() ? 1 : there.front().samples;
  std::vector<io::ResultRecord> failed;
  for (std::int32_t sample = 0; sample < samples; ++sample) {
    if (index.committed(row, sample)) continue;
    io::ResultRecord& record = failed.emplace_back();
    record.row = row;
    record.sample = sample;
    record.samples = samples;
    record.finish_reason = FinishReason::failed;
    record.error = fmt::format(
        "crashed: the ranks failed at least {} times with this prompt in work, at last alone", tries);
  }
  return failed;
}

}  // namespace

Starts::Starts(const Preflight& checked, const runtime::Session& session, Terminal& terminal,
               const io::JobLock& lock)
    : checked_(checked),
      session_(session),
      terminal_(terminal),
      lock_(lock),
      command_(for_our_ranks(checked.command)),
      fingerprint_(io::read_manifest(session.dir().string()).value().fingerprint()),
      harvest_(runtime::look_at_harvest(checked.job)),
      budget_(static_cast<int>(checked.job.run.max_restarts)) {
  std::error_code ignored;
  fs::remove(session.dir() / "status.json", ignored);  // of an earlier launcher
  if (checked.job.run.crash_tries == 0) return;
  suspects_ = runtime::Suspects::load(session.dir());
  if (suspects_.any()) acquit(io::JournalIndex(session.dir().string(), fingerprint_));
}

RanksEnd Starts::run() {
  for (;;) {
    const Scope scope = next_scope();
    RanksEnd end = run_once(scope);
    lock_.check();
    const std::uint64_t before = harvest_.committed_rows;
    harvest_ = runtime::look_at_harvest(checked_.job);
    if (harvest_.complete() || stopped(end)) return end;
    const bool progress = harvest_.committed_rows > before;
    if (end.code == 0 && progress && !scope.whole()) {
      acquit(io::JournalIndex(session_.dir().string(), fingerprint_));
    } else if (!recover(end, scope, progress)) {
      return end;
    }
  }
}

// Everything above suspicion first; then the suspects, in ever smaller groups.
Scope Starts::next_scope() const {
  const bool rest_is_done = harvest_.committed_rows + suspects_.held().size() >= harvest_.rows;
  return suspects_.any() && rest_is_done ? suspects_.next() : suspects_.rest();
}

RanksEnd Starts::run_once(const Scope& scope) {
  const fs::path& dir = session_.dir();
  runtime::remove_beats(dir);
  runtime::remove_in_work(dir);
  runtime::write_scope(dir, scope);
  if (scope.only) {
    say(fmt::format("{} prompts that were in work at failures run apart", scope.rows.size()));
  }
  silent_.reset();
  watch_.emplace(checked_.job.run.hang_seconds, seconds_now());
  const std::size_t runs = session_.read_runs().size();
  const RanksEnd end = run_ranks(command_, dir / "ranks.log", terminal_, [this] { return look_after(); });
  worked_ |= session_.read_runs().size() > runs;
  return end;
}

bool Starts::look_after() {
  if (silent_ || lock_.lost()) return false;
  try {
    const auto status = session_.read_status();
    if (status) terminal_.progress(status->state, runtime::progress_line(*status));
    const double now = seconds_now();
    if (now < next_look_) return true;
    next_look_ = now + runtime::beat_period(checked_.job.run.hang_seconds);
    silent_ = watch_->look(runtime::read_beats(session_.dir()), now);
    if (silent_) say(fmt::format("{}: the ranks are being ended", text_of(*silent_)));
  } catch (const std::exception&) {
    // Replaced while it was read, as shared file systems let it happen, or out of reach for now: the next
    // look will do.
  }
  return !silent_;
}

// On request, of this process or of the ranks.
bool Starts::stopped(const RanksEnd& end) const {
  if (end.stop_asked || end.code != 0) return end.stop_asked;
  const auto runs = session_.read_runs();
  return !runs.empty() && !runs.back().stopped_by.empty();
}

// After a failure: learns from it, waits, and says whether the ranks are to start again.
bool Starts::recover(RanksEnd& end, const Scope& scope, bool progress) {
  const auto most = checked_.job.run.max_restarts;
  if (most == 0 || !(end.given_up || runtime::worth_restarting(end.code, worked_))) return false;
  const bool narrower = search(scope);
  if (harvest_.complete()) return false;
  const auto pause = budget_.failed(progress, narrower);
  if (!pause) return false;
  const std::string again = fmt::format("the ranks start again in {:.0f} s ({} of at most {} times in a row)",
                                        *pause, budget_.in_a_row(), most);
  say(fmt::format("{}; {} of {} prompts are answered; {}", text_of(end), harvest_.committed_rows,
                  harvest_.rows, again));
  try {
    runtime::Status status = session_.read_status().value_or(runtime::Status());
    status.state = "restarting";
    status.note = again;
    status.running = 0;
    status.updated_unix = std::time(nullptr);
    session_.write_status(status);
  } catch (const Error&) {
    // A status that cannot be written now must not end a job.
  }
  end.stop_asked = !pause_unless_stopped(*pause);
  return !end.stop_asked && keep_to_living_nodes();
}

// Ranks may outlive this process by seconds: they say whose they are.
runtime::LaunchCommand Starts::for_our_ranks(runtime::LaunchCommand command) const {
  command.argv.push_back(lock_.nonce());
  return command;
}

// In an allocation that has lost nodes: the next start is for the others.
bool Starts::keep_to_living_nodes() {
  const auto& slurm = checked_.machine.slurm;
  if (!slurm || slurm->nodes < 2 || !slurm->has_srun) return true;
  command_ = for_our_ranks(checked_.command);
  const std::vector<std::string> nodes = runtime::probe_usable_nodes();
  const int left = static_cast<int>(nodes.size());
  if (left == 0 || left >= slurm->nodes) return true;
  const auto geometry = runtime::shrink(checked_.geometry, slurm->nodes, left);
  say(fmt::format("{} of {} nodes are left: {}", left, slurm->nodes,
                  geometry.ranks > 0 ? geometry.text() : "too few for a replica"));
  if (geometry.ranks == 0) return false;
  const std::string program = *std::prev(checked_.command.argv.end(), 2);
  command_ =
      for_our_ranks(runtime::launch_command(geometry, checked_.machine, program, session_.dir().string()));
  runtime::keep_to_nodes(command_, nodes, geometry.ranks_per_node);
  return true;
}

// Which prompts may have been the reason. True when suspects that ran apart have become fewer.
bool Starts::search(const Scope& scope) {
  const int tries = static_cast<int>(checked_.job.run.crash_tries);
  if (tries == 0) return false;
  const io::JournalIndex index(session_.dir().string(), fingerprint_);
  acquit(index);
  std::set<PromptRow> in_work = runtime::read_in_work(session_.dir());
  std::erase_if(in_work, [&](PromptRow row) { return row >= harvest_.rows || index.committed(row); });
  const auto verdict = suspects_.failed(scope, std::move(in_work), tries);
  if (verdict.culprit && index.size() > 0) {
    set_apart(index, *verdict.culprit);
    suspects_.convict(*verdict.culprit);
  } else if (verdict.culprit) {  // ranks that have never answered anything may die of something else
    suspects_.spare(*verdict.culprit);
  }
  suspects_.save(session_.dir());
  return scope.only && verdict.narrower;
}

void Starts::set_apart(const io::JournalIndex& index, PromptRow row) {
  const int tries = static_cast<int>(checked_.job.run.crash_tries);
  say(fmt::format("the prompt in row {} is set aside as crashed: run alone, it has ended its ranks again",
                  row));
  io::ResultJournal journal(session_.dir().string(), checked_.geometry.ranks, fingerprint_);
  for (const io::ResultRecord& record : crashed_answers(index, row, tries)) journal.append(record);
  journal.close();
  harvest_ = runtime::look_at_harvest(checked_.job);
}

void Starts::acquit(const io::JournalIndex& index) {
  suspects_.acquit([&](PromptRow row) { return index.committed(row); });
}

void Starts::say(const std::string& line) const {
  terminal_.message(line);
  std::ofstream(session_.dir() / "ranks.log", std::ios::app) << "nightshift: " << line << std::endl;
}

}  // namespace nightshift::cli
