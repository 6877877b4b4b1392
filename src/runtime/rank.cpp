// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "runtime/engine.h"
#include "runtime/job/geometry.h"
#include "runtime/job/version.h"
#include "runtime/model_executor.h"
#include "runtime/progress.h"
#include "runtime/runtime.h"
#include "runtime/stop_signal.h"

namespace nightshift::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What rank 0 finds in the session and tells the others, so that a thousand ranks do not open the same files.
struct Start {
  Job job;
  int number = 1;             // of this start
  std::int64_t job_unix = 0;  // the job's first start
  std::uint64_t fingerprint = 0;
};

Start share_start(const Session& session, const parallel::Communicator& world) {
  std::string text;
  if (world.rank() == 0) {
    const auto manifest = io::read_manifest(session.dir().string());
    if (!manifest)
      throw Error(fmt::format("{} has no manifest", session.dir().string()),
                  "start the job with `nightshift run`");
    const auto runs = session.read_runs();
    text = nlohmann::json{{"job", job_to_json(session.read_job())},
                          {"number", runs.empty() ? 1 : runs.back().number + 1},
                          {"started", session.started_unix()},
                          {"fingerprint", manifest->fingerprint()}}
               .dump();
  }
  world.broadcast(text);
  const auto shared = nlohmann::json::parse(text);
  return {job_from_json(shared.at("job").get<std::string>()), shared.at("number"), shared.at("started"),
          shared.at("fingerprint")};
}

std::uint64_t memory_line(const char* file, const char* key) {
  std::ifstream in(file);
  for (std::string name; in >> name;) {
    std::uint64_t kib = 0;
    if (name == key && in >> kib) return kib << 10;
    in.ignore(4096, '\n');
  }
  return 0;
}

// Blocks for every sequence to reach the longest context, as far as schedule.kv_memory goes, or half of what
// this rank's share of the free memory leaves beside weights and buffers; never less than one sequence needs,
// because answers must not depend on the pool.
std::int64_t kv_blocks(const Job& job, const model::ModelConfig& config, const model::StepLimits& limits,
                       int ranks_here) {
  const std::int64_t block = model::kv_block_bytes(config.shape);
  const std::int64_t per_sequence = (limits.max_context + kKvBlockTokens - 1) / kKvBlockTokens;
  const std::int64_t least = per_sequence + per_sequence / 50 + 2;  // and the watermark
  std::int64_t affordable = least;
  if (job.schedule.kv_memory) {
    affordable = static_cast<std::int64_t>(job.schedule.kv_memory->value) / block;
  } else {
    const model::MemoryNeed need = model::bytes_needed(config, limits);
    const auto share = static_cast<std::int64_t>(available_memory()) / ranks_here;
    const std::int64_t rest = (share - need.weights - need.step_buffers) / 2;
    affordable = std::max(least, std::min(rest, std::int64_t{64} << 30) / block);
  }
  if (affordable < least) {
    throw BadInput(fmt::format("schedule.kv_memory of {} holds {} tokens, less than one sequence of {}",
                               format_bytes(static_cast<double>(job.schedule.kv_memory->value)),
                               affordable * kKvBlockTokens, limits.max_context),
                   fmt::format("give at least {}, or lower model.max_context",
                               format_bytes(static_cast<double>(least * block))));
  }
  return std::min(affordable, per_sequence * job.schedule.max_sequences + 2);
}

model::StepLimits step_limits(const Job& job, const model::ModelConfig& config, int ranks_here) {
  constexpr std::int64_t kBudget = 512;  // enough rows to fill the matrix units of a CPU, short enough steps
  model::StepLimits limits;
  limits.max_context = job.model.max_context.value_or(model::longest_context(config));
  const std::int64_t budget =
      std::max(job.schedule.token_budget.value_or(kBudget), job.schedule.max_sequences);
  limits.max_query_tokens = static_cast<int>(budget);
  limits.max_sampled_rows = static_cast<int>(job.schedule.max_sequences);
  limits.kv_blocks = kv_blocks(job, config, limits, ranks_here);
  return limits;
}

scheduler::Options scheduler_options(const Job& job, const model::ModelConfig& config,
                                     const scheduler::Capacity& capacity, const model::StepLimits& limits) {
  scheduler::Options options;
  options.token_budget = static_cast<int>(job.schedule.token_budget.value_or(limits.max_query_tokens));
  options.max_sequences = static_cast<int>(job.schedule.max_sequences);
  options.kv_blocks = capacity.kv_blocks;
  options.max_context = static_cast<int>(limits.max_context);
  options.prefix_cache = job.schedule.prefix_cache;
  options.share_within_step = capacity.shares_within_step;
  options.eos_ids = config.stop_ids;
  options.pipeline_depth = capacity.pipeline_depth;
  return options;
}

std::string utc(std::int64_t unix_seconds) {
  const std::time_t time = unix_seconds;
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::map<std::string, std::string> slurm_facts() {
  std::map<std::string, std::string> facts;
  for (const char* name : {"SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT",
                           "SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME", "SLURM_JOB_NUM_NODES"}) {
    if (const char* value = std::getenv(name)) facts[name] = value;
  }
  return facts;
}

// Everything a rank holds, opened in the order in which it stands here and closed the other way round.
class Rank {
 public:
  Rank(const Session& session, const parallel::Communicator& world, int threads)
      : session_(session),
        world_(world),
        threads_(threads),
        begin_(Clock::now()),
        start_(share_start(session, world)),
        prompts_(session.prompts_file(start_.job).string(), start_.job.sampling),
        committed_(Committed::load(session.dir().string(), start_.fingerprint, prompts_.rows(), world)),
        progress_(world, session, prompts_.rows() * static_cast<std::uint64_t>(start_.job.sampling.n),
                  committed_.samples(), start_.number - 1),
        files_(model::open_model_files(start_.job.model.path)),
        tokenizer_(tokenizer::Tokenizer::load(start_.job.model.path)),
        chat_(tokenizer::ChatTemplate::load(start_.job.model.path, start_.job.model.chat_template,
                                            start_.job_unix)),
        limits_(step_limits(start_.job, files_.config, world.host_size())),
        model_(load_model()),
        journal_(session.dir().string(), world.rank(), start_.fingerprint) {
    begun_unix_ = std::time(nullptr) - static_cast<std::int64_t>(now());
  }

  void run() {
    check_kernels();
    record_run(false, 0.0);  // from now on the journal knows of this start, whatever happens
    const WorkPlan plan = make_work_plan(prompts_, world_);
    parallel::WorkQueue queue(world_,
                              plan.units.size());  // freed by all ranks together, so not before all are done
    const Clock::time_point loop = Clock::now();
    const bool complete = run_engine(plan, queue);
    journal_.close();
    const double busy = seconds_since(loop);
    world_.wait_for_all([this] { progress_.tick(counters_, 0, now()); });
    counters_.idle_seconds += seconds_since(loop) - busy;
    progress_.tick(counters_, 0, now(), true);
    world_.barrier();
    progress_.tick(counters_, 0, now(), true);
    const double seconds = seconds_since(loop);
    finish_counters();
    const bool all_complete = world_.min(complete ? 1 : 0) == 1;
    record_run(all_complete, seconds);
    progress_.end(all_complete, now());
  }

 private:
  double now() const { return seconds_since(begin_); }

  std::unique_ptr<model::Model> load_model() {
    progress_.note("loading", "weights", now());
    model::ModelOptions options;
    options.limits = limits_;
    options.tokenizer_size = tokenizer_.vocab_size();
    options.kernels = start_.job.run.kernels;
    auto model = model::Model::load(files_, options, [this](const model::LoadProgress& p) {
      progress_.note("loading",
                     fmt::format("weights {:.0f} %",
                                 100.0 * static_cast<double>(p.bytes) / static_cast<double>(p.total)),
                     now());
    });
    counters_.load_seconds = now();
    return model;
  }

  // Nodes that differ would choose different sets by themselves, and bytes are equal within one set only.
  void check_kernels() const {
    const std::vector<std::string> sets = world_.gather(model_->kernels());  // empty but on rank 0
    for (std::size_t rank = 1; rank < sets.size(); ++rank) {
      if (sets[rank] == sets[0]) continue;
      throw BadInput(fmt::format("rank 0 computes with {} kernels, rank {} with {}: the nodes differ",
                                 sets[0], rank, sets[rank]),
                     "name a set that every node has, e.g. run.kernels = \"portable\"");
    }
  }

  bool run_engine(const WorkPlan& plan, parallel::WorkQueue& queue) {
    const Job& job = start_.job;
    ModelExecutor executor(*model_);
    scheduler::Scheduler scheduler(scheduler_options(job, files_.config, executor.capacity(), limits_));
    const Preparer preparer(tokenizer_, chat_, files_.config.shape.vocab);
    const auto ahead =
        static_cast<std::size_t>(std::clamp<std::int64_t>(job.schedule.max_sequences, 16, 256));
    Intake intake(prompts_, preparer, committed_, plan, queue, ahead);
    Emitter emitter(tokenizer_, journal_, counters_);
    const double job_age = static_cast<double>(begun_unix_ - start_.job_unix);
    Engine engine(
        intake, scheduler, executor, emitter, counters_, files_.config.shape, job.sampling.seed,
        [&] { return job_age + now(); },
        [&] {
          progress_.tick(counters_, emitter.active(), now());
          return !StopSignal::asked();
        });
    return engine.run();
  }

  void finish_counters() {
    const auto peak = model_->measured_peak();
    counters_.peak_flops = peak.bf16_flops;
    counters_.peak_bandwidth = peak.read_bandwidth;
    counters_.resident_bytes = memory_line("/proc/self/status", "VmRSS:");
  }

  // Collective: rank 0 writes what all ranks have counted.
  void record_run(bool complete, double seconds) {
    const std::vector<std::string> counters = world_.gather(counters_.to_json());
    std::vector<std::string> hosts = world_.gather(parallel::Communicator::host_name());
    const std::vector<std::string> stops = world_.gather(StopSignal::name());
    if (world_.rank() != 0) return;
    RunRecord run;
    run.number = start_.number;
    run.started_at = utc(begun_unix_);
    run.seconds = seconds;
    run.complete = complete;
    for (const std::string& name : stops) run.stopped_by = run.stopped_by.empty() ? name : run.stopped_by;
    run.ranks = run.replicas = world_.size();
    run.threads = threads_;
    run.reduction_shards = kReductionShards;
    run.kernel_set = model_->kernels();
    run.numerics = "strict";
    std::sort(hosts.begin(), hosts.end());
    hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
    run.hosts = std::move(hosts);
    run.slurm = slurm_facts();
    run.git_revision = git_revision();
    run.version = version();
    for (const std::string& text : counters) {
      run.per_rank.push_back(RunCounters::from_json(text));
      run.total.add(run.per_rank.back());
    }
    session_.write_run(run);
  }

  const Session& session_;
  const parallel::Communicator& world_;
  int threads_;
  Clock::time_point begin_;
  std::int64_t begun_unix_ = 0;
  RunCounters counters_;
  StopSignal signals_;
  Start start_;
  io::PromptReader prompts_;
  Committed committed_;
  Progress progress_;
  model::ModelFiles files_;
  tokenizer::Tokenizer tokenizer_;
  tokenizer::ChatTemplate chat_;
  model::StepLimits limits_;
  std::unique_ptr<model::Model> model_;
  io::ResultJournal journal_;
};

}  // namespace

void run_rank(const Session& session, const parallel::Communicator& world, int threads) {
  Rank(session, world, threads).run();
}

}  // namespace nightshift::runtime
