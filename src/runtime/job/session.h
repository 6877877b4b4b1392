// SPDX-License-Identifier: Apache-2.0
// What lies beside the result while a job runs, OUTPUT.h5.journal/, and who writes what there:
//
//   manifest.json, lock     io room (who may resume what)
//   job.json                front end: the resolved job, read by the ranks
//   started                 whoever comes first: when the job was first started, seconds since 1970
//   input.h5                front end: the prompts, when the job's input is JSONL
//   rank-*.journal          every rank: finished rows (io room)
//   status.json             rank 0, about once a second, replaced atomically: `nightshift status` and the
//                           progress line; the front end while it waits to start the ranks again
//   run-0001.json ...       rank 0, once per start: geometry, counters and latency sketches of that start
//   beat-*, in-work-*       every rank, every leader: for the front end, which looks for hangs and for
//                           prompts that kill (heartbeat.h, in_work.h)
//   scope.json              front end: what this start works on (suspects.h); suspects.json: for itself
//
// Front end and ranks meet only here; nothing below needs MPI, Kokkos or CUDA.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"

namespace nightshift::runtime {

// Quantiles of positive durations within 1 % in bounded memory: logarithmic buckets, mergeable across ranks
// and restarts (the idea of DDSketch, Masson et al. 2019).
class LatencySketch {
 public:
  void add(double seconds, std::uint64_t times = 1);
  void merge(const LatencySketch& other);
  double quantile(double q) const;  // 0 when empty
  std::uint64_t count() const { return count_; }
  double mean() const { return count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_); }
  double max() const { return max_; }

  std::string to_json() const;
  static LatencySketch from_json(const std::string& text);

 private:
  std::map<int, std::uint64_t> buckets_;
  std::uint64_t count_ = 0;
  double sum_ = 0.0;
  double max_ = 0.0;
};

// Sums of one kind of collective since the start: bytes that a rank sent to others, calls, and the wall time
// inside them, waiting for the slowest rank included.
struct TrafficTotal {
  std::uint64_t bytes = 0;
  std::uint64_t calls = 0;
  double seconds = 0.0;

  TrafficTotal& operator+=(const TrafficTotal& other);
  bool operator==(const TrafficTotal&) const = default;
};

// What one rank (or, summed, one start) has done. Definitions are in docs/operations.md, section "Report".
// The ranks of a replica work on the same sequences: what belongs to the replica (prompts, tokens, steps,
// FLOPs, latencies) is counted by its leader alone and is 0 in the others, so that sums over ranks are right.
// Seconds, peaks, traffic and memory are every rank's own.
struct RunCounters {
  std::uint64_t prompts_done = 0;  // samples with an answer
  std::uint64_t prompts_failed = 0;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t cached_tokens = 0;  // of prompt_tokens, found in the prefix cache
  std::uint64_t output_tokens = 0;
  std::uint64_t steps = 0;
  std::uint64_t decode_tokens = 0;
  std::uint64_t prefill_tokens = 0;  // computed, recomputation included
  std::uint64_t recomputed_tokens = 0;
  std::uint64_t preemptions = 0;
  std::uint64_t taken_up_answers = 0;  // continued where an earlier start left them
  std::uint64_t taken_up_tokens = 0;   // theirs, of earlier starts: not in output_tokens
  std::uint64_t checkpoints = 0;       // times that running answers were journalled
  std::uint64_t checkpoint_tokens = 0;
  double checkpoint_seconds = 0.0;  // of host_seconds
  double compute_seconds = 0.0;     // in the model call
  double host_seconds = 0.0;        // claim, admit, plan, commit, emit: everything between model calls
  double idle_seconds = 0.0;        // nothing to run: start of the job, waiting for the slowest rank
  double load_seconds = 0.0;    // reading and packing the weights, waiting for others of the host included
  double model_flops = 0.0;     // useful: recomputation excluded
  double hardware_flops = 0.0;  // recomputation included
  double memory_bytes = 0.0;    // weights and KV read and written, by formula
  double peak_flops = 0.0;      // measured at start, of the threads in use
  double peak_bandwidth = 0.0;  // bytes/s, measured at start
  std::uint64_t kv_blocks = 0;
  std::uint64_t kv_blocks_high_water = 0;
  std::uint64_t resident_bytes = 0;  // of the process, at the end

  // By layout, index parallel::Layout. Counted like steps, by the leader of a replica.
  std::array<std::uint64_t, 2> layout_steps{};
  std::array<std::uint64_t, 2> layout_tokens{};
  std::array<double, 2> layout_seconds{};  // model calls, communication included
  std::uint64_t shifts = 0;                // steps in another layout than the one before

  std::map<std::string, TrafficTotal> traffic;  // of this rank, by kind (parallel::kTrafficNames)

  // Of a host: counted by its first rank alone and 0 in the others, so that sums are over hosts.
  std::uint64_t weight_bytes = 0;    // packed weights, which stand once per host
  std::uint64_t host_pss_bytes = 0;  // proportional set size of all ranks of the host, at the end
  // Of a rank.
  std::uint64_t weight_bytes_per_rank = 0;  // of the packed weights, what this rank's layouts read: the
                                            // view of the base layout, within which the shift layout's lies
  std::uint64_t load_bytes = 0;             // read from the checkpoint by this rank
  std::uint64_t trace_events_dropped = 0;   // that did not fit into memory

  LatencySketch time_to_first_token;
  LatencySketch inter_token;  // pooled over all tokens but the first of each sample
  LatencySketch time_per_output_token;
  LatencySketch end_to_end;
  LatencySketch step;

  void add(const RunCounters& other);  // sums; peaks add up over ranks, high water too
  std::string to_json() const;
  static RunCounters from_json(const std::string& text);
};

// One start of the ranks, from the first claim to the last commit.
struct RunRecord {
  int number = 0;          // 1, 2, ... : restarts = number - 1
  std::string started_at;  // UTC, ISO 8601
  double seconds = 0.0;    // wall time of the engine loop, slowest rank
  bool complete = false;   // this start finished the job
  std::string stopped_by;  // "", "SIGTERM", ... when it ended early
  int ranks = 0;
  int threads = 0;
  int replicas = 0, sequence = 1, tensor = 1;  // ranks = replicas * sequence * tensor
  std::string shift;                           // what the policy does (ShiftPolicy::describe)
  std::string calibration;  // what it measured at start (Calibration::to_json); empty: nothing
  int reduction_shards = 0;
  std::string kernel_set;
  std::string transport;  // between ranks of a replica: none, host, nccl, or mpi and why
  std::string numerics;
  std::vector<std::string> hosts;
  std::map<std::string, std::string> slurm;  // SLURM_JOB_ID and the like, where set
  std::string git_revision, version;
  RunCounters total;
  std::vector<RunCounters> per_rank;

  std::string to_json() const;
  static RunRecord from_json(const std::string& text);
};

// A moment of a running job.
struct Status {
  std::string state;                // loading | running | finalizing | stopped
  std::uint64_t samples_total = 0;  // rows of the result: prompts times n, as far as known
  std::uint64_t done = 0;           // over all starts
  std::uint64_t failed = 0;
  std::uint64_t running = 0;
  std::uint64_t prompt_tokens = 0;  // this start
  std::uint64_t output_tokens = 0;
  std::uint64_t taken_up_tokens = 0;  // of answers that this start continues: generated before
  double tokens_per_second = 0.0;     // prompt and output tokens, over the last seconds
  double eta_seconds = -1.0;          // < 0: not known yet
  double elapsed_seconds = 0.0;       // this start
  int ranks = 0;
  int restarts = 0;
  std::string host;  // of rank 0
  std::int64_t updated_unix = 0;
  std::string note;  // what it is doing now, e.g. "weights 40 %"

  std::string to_json() const;
  static Status from_json(const std::string& text);
};

// The folder and its files. All writes are atomic (a temporary name, then a rename) and, but for the status,
// durable; all reads refuse what does not parse.
class Session {
 public:
  // `launcher`: a rank's, the nonce of the lock under which it was started; empty: nobody's.
  explicit Session(std::filesystem::path journal_dir, std::string launcher = "")
      : dir_(std::move(journal_dir)), launcher_(std::move(launcher)) {}
  explicit Session(const Job& job) : Session(job.journal_dir()) {}

  const std::filesystem::path& dir() const { return dir_; }
  void clear(std::string_view keep = "lock") const;  // removes all but the lock and `keep`
  // Throws Error when another launcher has the folder now: ranks may outlive theirs for seconds, and in these
  // the job may have begun anew (`--restart`) under the same path.
  void check_launcher() const;
  std::filesystem::path prompts_file(const Job& job) const;  // job.input, or input.h5 here when that is JSONL

  // When the job was first started, seconds since 1970: the zero of all its times, and what its chat template
  // is told the date is, also after a restart. The first call fixes it.
  std::int64_t started_unix() const;

  void write_job(const Job& job) const;
  Job read_job() const;
  void write_status(const Status& status) const;
  std::optional<Status> read_status() const;  // nullopt: none yet
  void write_run(const RunRecord& run) const;
  std::vector<RunRecord> read_runs() const;  // in order of number

 private:
  std::filesystem::path dir_;
  std::string launcher_;
};

}  // namespace nightshift::runtime
