// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <ctime>

#include "core/check.h"
#include "core/text.h"
#include "runtime/calibrate.h"
#include "runtime/desk.h"
#include "runtime/follower.h"
#include "runtime/job/geometry.h"
#include "runtime/job/limits.h"
#include "runtime/model_executor.h"
#include "runtime/record.h"
#include "runtime/runtime.h"
#include "runtime/start.h"
#include "runtime/stop_signal.h"
#include "runtime/trace_file.h"

namespace nightshift::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string utc(std::int64_t unix_seconds) {
  const std::time_t time = unix_seconds;
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

parallel::Degrees legal_degrees(const Job& job, const ModelShape& shape) {
  const parallel::Degrees degrees = degrees_of(job);
  parallel::check_degrees(shape, degrees, parallel::setting_shifts(job.parallel.shift, degrees));
  return degrees;
}

// Every rank sees its own GPU as the first one; several may see the same.
GpuMemory shared_gpu(const parallel::Communicator& world) {
  const model::Gpu here = model::own_gpu().value();  // before anyone takes of it
  const std::string own = parallel::Communicator::host_name() + " " + here.identity;
  std::string all;
  for (const std::string& one : world.gather(own)) all += one + "\n";
  world.broadcast(all);
  GpuMemory gpu{.ranks = 0, .free = here.free_bytes};
  for (std::size_t at = all.find(own + "\n"); at != std::string::npos; at = all.find(own + "\n", at + 1))
    ++gpu.ranks;
  return gpu;
}

// The ranks of a replica plan alike, so they count with the same pool.
model::StepLimits agreed_limits(const Job& job, const model::ModelConfig& config,
                                const parallel::Degrees& degrees, const parallel::Communicator& world,
                                bool gpu) {
  const std::uint64_t memory = available_memory();
  model::StepLimits limits = gpu ? gpu_step_limits(job, config, degrees, shared_gpu(world))
                                 : step_limits(job, config, degrees, world.host_size(), memory);
  world.barrier();  // before anyone takes of it
  limits.kv_blocks = world.min(limits.kv_blocks);
  return limits;
}

// auto: GPUs where every rank has one.
bool computes_on_gpu(const Job& job, const parallel::Communicator& world) {
  if (!may_use_gpus(job)) return false;
  const bool here = model::own_gpu().has_value();
  if (needs_gpus(job) && !here)
    throw Error(fmt::format("the job asks for GPUs, but host {} has none to offer: {}",
                            parallel::Communicator::host_name(), model::why_no_gpu()),
                "run.device = \"cpu\" runs without one");
  return world.min(here ? 1 : 0) == 1;
}

// Everything a rank holds, opened in the order in which it stands here and closed the other way round.
class Rank {
 public:
  Rank(const Session& session, const parallel::Communicator& world, int threads)
      : session_(session),
        world_(world),
        threads_(threads),
        start_(share_start(session, world)),
        stop_time_(start_.seconds_left, start_.job.run.stop_before_end_seconds),
        heartbeat_(session.dir(), world.rank(), beat_period(start_.job.run.hang_seconds)),
        files_(model::open_model_files(start_.job.model.path)),
        mesh_(world, legal_degrees(start_.job, files_.config.shape)),
        leaders_(world.split(mesh_.leads() ? 0 : 1, world.rank())),
        desk_(mesh_.leads() ? std::make_unique<Desk>(session, start_, leaders_, world.size()) : nullptr),
        gpu_(computes_on_gpu(start_.job, world)),
        limits_(agreed_limits(start_.job, files_.config, mesh_.degrees(), world, gpu_)),
        model_(load_model()),
        calibration_(measure_layouts()),
        policy_(start_.job.parallel.shift, mesh_.degrees(), calibration_) {
    note("loading", policy_.describe());
  }

  void run() {
    check_kernels();
    heartbeat_.working(true);
    record(false, 0.0);  // from now on the journal knows of this start, whatever happens
    if (!start_.job.run.trace.empty()) {
      trace_.emplace(begin_trace(world_));
      world_.trace_to(&*trace_);
    }
    const parallel::TrafficSums before = world_.traffic();  // of loading and calibration
    const Clock::time_point loop = Clock::now();
    const bool complete = work();
    wait_for_the_others();
    const double seconds = seconds_since(loop);
    close_trace();
    count_at_end(*model_, mesh_, before, counters_);
    const bool all_complete = world_.min(complete ? 1 : 0) == 1 && start_.scope.whole();
    record(all_complete, seconds);
    if (desk_) desk_->progress().end(all_complete);
  }

 private:
  void note(const std::string& state, const std::string& text) {
    heartbeat_.beat();
    if (desk_) desk_->progress().note(state, text);
  }

  std::unique_ptr<model::Model> load_model() {
    note("loading", gpu_ ? "weights, onto GPUs" : "weights");
    model::ModelOptions options;
    options.limits = limits_;
    options.tokenizer_size = tokenizer_size();
    options.kernels = start_.job.run.kernels;
    options.gpu = gpu_;
    options.strict = strict_numerics(start_.job);
    options.mesh = &mesh_;
    options.transport = model::transport_named(start_.job.parallel.transport);
    options.on_layer = [this] { heartbeat_.beat(); };
    const Clock::time_point begin = Clock::now();
    auto model = model::Model::load(files_, options, [&](const model::LoadProgress& p) {
      counters_.load_bytes = p.own;
      const auto bytes = static_cast<double>(p.bytes);
      note("loading",
           fmt::format("weights {:.0f} %, {} at {}/s", 100.0 * bytes / static_cast<double>(p.total),
                       format_bytes(bytes), format_bytes(bytes / seconds_since(begin))));
    });
    counters_.load_seconds = seconds_since(begin);
    return model;
  }

  // Only leaders have a tokenizer.
  int tokenizer_size() const {
    std::string size = desk_ ? std::to_string(desk_->tokenizer_size()) : "";
    world_.broadcast(size);
    return std::stoi(size);
  }

  std::optional<parallel::Calibration> measure_layouts() {
    const std::string& setting = start_.job.parallel.shift;
    if (setting != "auto" || !parallel::setting_shifts(setting, mesh_.degrees())) return std::nullopt;
    note("loading", "timing both layouts");
    return calibrate(*model_, mesh_);
  }

  // Nodes that differ would choose different sets by themselves, and bytes are equal within one set only.
  void check_kernels() const {
    const std::vector<std::string> sets = world_.gather(model_->kernels());  // empty but on rank 0
    for (std::size_t rank = 1; rank < sets.size(); ++rank) {
      if (sets[rank] == sets[0]) continue;
      throw BadInput(fmt::format("rank 0 computes with {} kernels, rank {} with {}: the nodes differ",
                                 sets[0], rank, sets[rank]),
                     "name what every node has, e.g. run.device = \"cpu\" and run.kernels = \"portable\"");
    }
  }

  scheduler::Options scheduler_options(const scheduler::Capacity& capacity) const {
    const Job& job = start_.job;
    scheduler::Options options;
    options.token_budget = static_cast<int>(job.schedule.token_budget.value_or(limits_.max_query_tokens));
    options.max_sequences = limits_.max_sampled_rows;
    options.kv_blocks = capacity.kv_blocks;
    options.max_context = static_cast<int>(limits_.max_context);
    options.prefix_cache = job.schedule.prefix_cache;
    options.share_within_step = capacity.shares_within_step;
    options.eos_ids = files_.config.stop_ids;
    options.pipeline_depth = capacity.pipeline_depth;
    if (calibration_)
      options.prefill_group = calibration_->prefill_group(options.token_budget, options.max_sequences);
    return options;
  }

  // Until there is nothing left to do (true) or the replica's leader was told to stop (false).
  bool work() {
    TraceLog* const trace = trace_ ? &*trace_ : nullptr;
    ModelExecutor executor(*model_, policy_, desk_ ? &counters_ : nullptr, trace);
    scheduler::Scheduler scheduler(scheduler_options(executor.capacity()));
    const double job_age = static_cast<double>(begun_unix_ - start_.job_unix);
    Replica replica(
        mesh_.replica(), scheduler, executor, counters_, [&] { return job_age + seconds_since(begin_); },
        trace);
    if (desk_) {
      return desk_->serve(replica, files_.config.shape, world_.rank(), heartbeat_,
                          [this] { return going(); });
    }
    Follower(replica, &heartbeat_).run();
    return true;
  }

  bool going() {
    if (StopSignal::asked()) stopped_by_ = StopSignal::name();
    if (stopped_by_.empty() && stop_time_.reached()) stopped_by_ = "end of the allocation";
    return stopped_by_.empty();
  }

  void wait_for_the_others() {
    const TraceScope scope(trace_ ? &*trace_ : nullptr, "wait for all");
    const auto tick = [this](bool force) {
      heartbeat_.beat();
      if (desk_) desk_->progress().tick(counters_, 0, force);
    };
    const Clock::time_point begin = Clock::now();
    world_.wait_for_all([&] { tick(false); });
    counters_.idle_seconds += seconds_since(begin);
    tick(true);
    world_.barrier();
    tick(true);
  }

  void close_trace() {
    if (!trace_) return;
    world_.trace_to(nullptr);
    counters_.trace_events_dropped = trace_->dropped();
    write_trace(*trace_, mesh_, start_.job.run.trace);
  }

  void record(bool complete, double seconds) const {
    RunRecord run;
    run.number = start_.number;
    run.started_at = utc(begun_unix_);
    run.seconds = seconds;
    run.complete = complete;
    run.threads = threads_;
    run.replicas = mesh_.replicas();
    run.sequence = mesh_.degrees().sequence;
    run.tensor = mesh_.degrees().tensor;
    run.shift = policy_.describe();
    run.calibration = calibration_ ? calibration_->to_json() : "";
    run.reduction_shards = kReductionShards;
    run.kernel_set = model_->kernels();
    run.transport = model_->transport();
    run.numerics = gpu_ && !strict_numerics(start_.job) ? "fast" : "strict";
    write_record(session_, world_, counters_, stopped_by_, std::move(run));
  }

  const Session& session_;
  const parallel::Communicator& world_;
  int threads_;
  Clock::time_point begin_ = Clock::now();
  std::int64_t begun_unix_ = std::time(nullptr);
  RunCounters counters_;
  StopSignal signals_;
  Start start_;
  StopTime stop_time_;
  std::string stopped_by_;  // what ended this leader's work early
  Heartbeat heartbeat_;
  model::ModelFiles files_;
  parallel::DeviceMesh mesh_;
  parallel::Communicator leaders_;  // of the replicas; the followers have one of their own, without use
  std::unique_ptr<Desk> desk_;      // null on followers
  bool gpu_;
  model::StepLimits limits_;
  std::unique_ptr<model::Model> model_;
  std::optional<parallel::Calibration> calibration_;
  parallel::ShiftPolicy policy_;
  std::optional<TraceLog> trace_;
};

}  // namespace

void run_rank(const Session& session, const parallel::Communicator& world, int threads) {
  Rank(session, world, threads).run();
}

}  // namespace nightshift::runtime
