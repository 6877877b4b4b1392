// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>

#include "cli/commands.h"
#include "cli/preflight.h"
#include "cli/starts.h"
#include "cli/supervisor.h"
#include "cli/terminal.h"
#include "core/text.h"
#include "io/journal.h"
#include "io/jsonl.h"
#include "io/lock.h"
#include "runtime/job/finalize.h"
#include "runtime/job/limits.h"
#include "runtime/job/retry.h"
#include "runtime/job/version.h"

namespace nightshift::cli {
namespace {

namespace fs = std::filesystem;
using runtime::Session;
using runtime::Start;

struct RunOptions {
  std::string job_file;
  std::vector<std::string> overrides;
  int ranks = 0;
  bool resume = false;
  bool restart = false;
  bool retry_failed = false;
  bool dry_run = false;
};

Exit exit_for(const Job& job, double failed_share) {
  return failed_share > job.job.max_failed ? Exit::too_many_failed : Exit::done;
}

std::string words_for(Start start, bool restart, bool retry) {
  if (start != Start::fresh && retry) return "tries rows again that failed for a passing reason";
  if (start == Start::resume) return "continues the journal that is there";
  if (start == Start::complete) return "nothing: the result is complete already";
  return restart ? "begins anew; what is there is kept aside" : "begins";
}

// "4 ranks = 2 replicas x (sequence 2 x tensor 1), shift auto, 1 thread each"
std::string ranks_text(const Preflight& p) {
  const runtime::Geometry& g = p.geometry;
  const std::string shift = g.degrees.ranks() == 1 ? "" : fmt::format(", shift {}", p.job.parallel.shift);
  return fmt::format("{}{}, {} thread{}{}", g.text(), shift, g.threads, g.threads == 1 ? "" : "s",
                     g.ranks == 1 ? "" : " each");
}

// Where the model runs, as far as this machine knows: ranks decide, auto means GPUs where every rank has one.
std::string device_text(const Preflight& p) {
  if (p.gpu) return fmt::format("GPUs, {} numerics", runtime::strict_numerics(p.job) ? "strict" : "fast");
  const bool could = runtime::has_cuda_library() && runtime::may_use_gpus(p.job);
  return could ? "CPUs: there is no GPU here" : "CPUs";
}

Exit show_plan(const Preflight& p, const RunOptions& options) {
  std::cout << p.command.text() << "\n\n" << job_to_toml(p.job);
  std::cerr << fmt::format("start:    {}\n", words_for(p.start, options.restart, options.retry_failed));
  if (p.start == Start::resume) {
    const runtime::Harvest done = runtime::look_at_harvest(p.job);
    std::cerr << fmt::format("answered: {} of {} prompts\n", done.committed_rows, done.rows);
  }
  std::cerr << fmt::format("ranks:    {}{}\n", ranks_text(p),
                           p.geometry.bound ? ", bound to cores" : ", more than there are cores: not bound");
  std::cerr << fmt::format("device:   {}\n", device_text(p));
  if (p.gpu)
    std::cerr << fmt::format("memory:   of each rank's GPU at least {}\n", runtime::memory_text(p.memory, 1));
  else
    std::cerr << fmt::format("memory:   at least {}; {} free here\n",
                             runtime::memory_text(p.memory, p.geometry.ranks_per_node),
                             format_bytes(static_cast<double>(p.machine.memory_bytes)));
  if (!p.job.run.trace.empty()) std::cerr << fmt::format("trace:    {}\n", p.job.run.trace.string());
  return Exit::done;
}

// The heartbeat thread of the lock must not be the one that a stop signal ends the process through.
std::unique_ptr<io::JobLock> take_lock(const fs::path& dir, Terminal& terminal) {
  const SignalsHeld held;
  fs::create_directories(dir);
  io::LockOptions options;
  options.waiting = [&](const std::string& text) { terminal.message(text); };
  return std::make_unique<io::JobLock>(dir.string(), std::move(options));
}

// The journal folder, ready for ranks, and the lock on it.
class Workplace {
 public:
  Workplace(const Preflight& checked, const RunOptions& options, Terminal& terminal)
      : job_(checked.job), session_(job_), lock_(take_lock(session_.dir(), terminal)) {
    // Again, now that nobody else can change it.
    const Start start = runtime::decide_start(job_, checked.manifest, options.restart);
    complete_ = start == Start::complete && !(options.retry_failed && runtime::count_retryable(job_) > 0);
    if (complete_) {  // another launcher has finished the job in the meantime
      remove();
      return;
    }
    runtime::remove_leftovers(job_);
    if (options.restart) set_aside(terminal);
    // What an earlier launcher left that did not get as far as a manifest, or was making out of a result that
    // has gone.
    if (start == Start::fresh) session_.clear();
    try {
      if (start == Start::resume) io::cut_torn_tails(session_.dir().string());
      if (options.retry_failed && start != Start::fresh) open_failed(start, terminal);
      if (start != Start::resume || !fs::exists(session_.prompts_file(job_))) import_lines(checked, terminal);
      if (start == Start::fresh) io::write_manifest(session_.dir().string(), checked.manifest);
      if (!job_.run.trace.empty()) fs::create_directories(job_.run.trace.parent_path());
      session_.started_unix();  // fixes the job's clock
      session_.write_job(job_);
    } catch (...) {
      if (start != Start::resume) remove();  // a finished result is still there
      throw;
    }
  }

  const Session& session() const { return session_; }
  const io::JobLock& lock() const { return *lock_; }
  bool complete() const { return complete_; }  // nothing is left to do

 private:
  void set_aside(Terminal& terminal) {
    for (const fs::path& moved : runtime::set_aside(job_)) {
      if (fs::is_directory(moved)) fs::remove(moved / "lock");
      const bool empty = fs::is_directory(moved) && fs::is_empty(moved);
      if (empty) fs::remove(moved);
      if (!empty) terminal.message(fmt::format("kept aside: {}", moved.string()));
    }
    lock_.reset();  // went with the folder
    lock_ = take_lock(session_.dir(), terminal);
  }

  void open_failed(Start start, Terminal& terminal) {
    terminal.progress("reading", fmt::format("looking for failed rows of {}", job_.job.output.string()));
    const std::uint64_t rows =
        start == Start::complete ? runtime::reopen(job_) : runtime::supersede_retryable(job_);
    terminal.message(fmt::format("--retry-failed: {} answers are open again", rows));
  }

  void import_lines(const Preflight& checked, Terminal& terminal) {
    if (job_.job.input.extension() != ".jsonl") return;
    const std::string prompts = session_.prompts_file(job_).string();
    terminal.progress("reading", fmt::format("reading {}", job_.job.input.string()));
    io::import_batch(job_.job.input.string(), prompts);
    check_prompts(prompts, checked);
  }

  void remove() {
    std::error_code ignored;
    fs::remove_all(session_.dir(), ignored);
  }

  const Job& job_;
  Session session_;
  std::unique_ptr<io::JobLock> lock_;
  bool complete_ = false;
};

// Of a launcher's many words: nothing when a rank has ended the job, because it has said why; else the line
// that tells of a killed rank; else all.
std::vector<std::string> worth_showing(const std::vector<std::string>& lines) {
  std::vector<std::string> killed;
  for (const std::string& line : lines) {
    if (line.find("MPI_ABORT") != std::string::npos) return {};
    if (line.find("exited on signal") != std::string::npos) killed.push_back(line);
  }
  return killed.empty() ? lines : killed;
}

// The ranks have gone and answers are missing: stopped on request, or failed.
Exit incomplete(const RanksEnd& end, const runtime::Harvest& harvest, const Session& session,
                Terminal& terminal) {
  const std::string safe = fmt::format("{} of {} prompts are answered and safe in {}", harvest.committed_rows,
                                       harvest.rows, session.dir().string());
  const auto runs = session.read_runs();
  const bool stopped = !runs.empty() && !runs.back().stopped_by.empty() && end.code == 0;
  if (stopped || end.stop_asked) {
    const std::string why = end.stop_asked ? "" : fmt::format(" ({})", runs.back().stopped_by);
    terminal.message(fmt::format("stopped early{}: {}\n  -> the same command continues the job", why, safe));
    return Exit::stopped_resumable;
  }
  for (const std::string& line : worth_showing(end.launcher)) terminal.message(line);
  throw Error(fmt::format("the ranks ended with exit code {}; {}", end.code, safe),
              fmt::format("what they said is in {}; the same command continues the job",
                          (session.dir() / "ranks.log").string()),
              end.code == static_cast<int>(Exit::bad_input) ? Exit::bad_input : Exit::failed);
}

Exit finish(const Preflight& p, const Workplace& place, Terminal& terminal) {
  place.lock().check();
  terminal.progress("writing", fmt::format("writing {}", p.job.job.output.string()));
  const runtime::Finalized done = runtime::finalize(p.job);
  terminal.message(runtime::report_text(done.report.summary, done.report.provenance));
  terminal.message(fmt::format("{}: {} rows, {}", p.job.job.output.string(),
                               format_count(static_cast<double>(done.result.rows)),
                               format_bytes(static_cast<double>(done.result.bytes))));
  return exit_for(p.job, done.failed_share);
}

Exit already_complete(const Job& job) {
  const auto root = runtime::read_result_root(job.job.output);
  const double failed = runtime::failed_share_of(root->summary);
  std::cerr << fmt::format("{} is complete already; --restart makes it anew\n", job.job.output.string());
  return exit_for(job, failed);
}

Exit run(const RunOptions& options) {
  const Preflight p = check_job(load_job(options.job_file, options.overrides), options.ranks, options.restart,
                                options.retry_failed);
  if (options.resume && p.start == Start::fresh) {
    throw BadInput(fmt::format("--resume: no journal {}", p.job.journal_dir().string()),
                   "leave --resume away");
  }
  if (options.dry_run) return show_plan(p, options);
  if (p.start == Start::complete && !options.retry_failed) return already_complete(p.job);
  Terminal terminal;
  const Workplace place(p, options, terminal);
  if (place.complete()) return already_complete(p.job);
  // A signal that comes when the ranks have gone has nothing left to stop, and must not turn success into
  // death.
  const SignalsHeld held(SignalsHeld::AtEnd::drop);
  if (!runtime::look_at_harvest(p.job).complete()) {
    terminal.message(
        fmt::format("{}: {}; {}", p.job.job.name, ranks_text(p), words_for(p.start, false, false)));
    if (runtime::has_cuda_library()) terminal.message(fmt::format("device: {}", device_text(p)));
    const RanksEnd end = Starts(p, place.session(), terminal, place.lock()).run();
    const runtime::Harvest harvest = runtime::look_at_harvest(p.job);
    if (!harvest.complete()) return incomplete(end, harvest, place.session(), terminal);
  }
  return finish(p, place, terminal);
}

}  // namespace

void add_run(Front& front) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command =
      front.app.add_subcommand("run", "Run a job: check it, start the ranks, write the result");
  command->add_option("job", options->job_file, "the job file; nightshift help job lists its keys")
      ->required()
      ->type_name("JOB.toml");
  command->add_option("--set", options->overrides, "set a key of the job file; may be repeated")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  command
      ->add_option("--ranks", options->ranks,
                   "ranks to start, whole replicas; 0: one per GPU, else per CPU socket")
      ->type_name("N");
  auto* resume =
      command->add_flag("--resume", options->resume, "continue only; refuse when there is no journal");
  command->add_flag("--restart", options->restart, "begin anew; what is there is renamed to *.bak-TIME")
      ->excludes(resume);
  command->add_flag("--retry-failed", options->retry_failed,
                    "try rows again that failed for a passing reason (timeout, crashed, ...)");
  command->add_flag("--dry-run", options->dry_run,
                    "check everything, print command and resolved job, start nothing");
  command->footer(
      "Continues by itself when OUTPUT.journal holds answers of the same job; nothing that is committed is\n"
      "done twice, whatever the number of ranks now and before. Ctrl-C (or SIGTERM, SIGUSR1) saves running\n"
      "answers and stops with exit code 75; a second Ctrl-C stops at once. Inside a Slurm allocation the\n"
      "ranks start through srun.\n\n"
      "Examples:\n"
      "  nightshift run jobs/quickstart.toml --ranks 2\n"
      "  nightshift run job.toml --set sampling.max_tokens=64 --set job.output=short.h5 --dry-run\n"
      "  nightshift run job.toml --retry-failed --set sampling.max_seconds=600\n");
  command->callback([&front, options] { front.action = [options] { return run(*options); }; });
}

}  // namespace nightshift::cli
