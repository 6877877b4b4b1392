// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/session.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <type_traits>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "io/lock.h"

namespace nightshift::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const double kLogGrowth = std::log(1.02);  // bucket bounds grow by 2 %: a quantile is within 1 %
constexpr double kSmallest = 1e-9;

std::string read_text(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(fmt::format("cannot read {}: {}", file.string(), std::strerror(errno)));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// Field tables: one visitor writes, one reads.
template <class T, class Visitor>
void visit(T& c, Visitor&& v, RunCounters*) {
  v("prompts_done", c.prompts_done);
  v("prompts_failed", c.prompts_failed);
  v("prompt_tokens", c.prompt_tokens);
  v("cached_tokens", c.cached_tokens);
  v("output_tokens", c.output_tokens);
  v("steps", c.steps);
  v("decode_tokens", c.decode_tokens);
  v("prefill_tokens", c.prefill_tokens);
  v("recomputed_tokens", c.recomputed_tokens);
  v("preemptions", c.preemptions);
  v("taken_up_answers", c.taken_up_answers);
  v("taken_up_tokens", c.taken_up_tokens);
  v("checkpoints", c.checkpoints);
  v("checkpoint_tokens", c.checkpoint_tokens);
  v("checkpoint_seconds", c.checkpoint_seconds);
  v("compute_seconds", c.compute_seconds);
  v("host_seconds", c.host_seconds);
  v("idle_seconds", c.idle_seconds);
  v("load_seconds", c.load_seconds);
  v("model_flops", c.model_flops);
  v("hardware_flops", c.hardware_flops);
  v("memory_bytes", c.memory_bytes);
  v("peak_flops", c.peak_flops);
  v("peak_bandwidth", c.peak_bandwidth);
  v("kv_blocks", c.kv_blocks);
  v("kv_blocks_high_water", c.kv_blocks_high_water);
  v("resident_bytes", c.resident_bytes);
  v("layout_steps", c.layout_steps);
  v("layout_tokens", c.layout_tokens);
  v("layout_seconds", c.layout_seconds);
  v("shifts", c.shifts);
  v("traffic", c.traffic);
  v("weight_bytes", c.weight_bytes);
  v("host_pss_bytes", c.host_pss_bytes);
  v("weight_bytes_per_rank", c.weight_bytes_per_rank);
  v("load_bytes", c.load_bytes);
  v("trace_events_dropped", c.trace_events_dropped);
  v("time_to_first_token", c.time_to_first_token);
  v("inter_token", c.inter_token);
  v("time_per_output_token", c.time_per_output_token);
  v("end_to_end", c.end_to_end);
  v("step", c.step);
}

template <class T, class Visitor>
void visit(T& r, Visitor&& v, RunRecord*) {
  v("number", r.number);
  v("started_at", r.started_at);
  v("seconds", r.seconds);
  v("complete", r.complete);
  v("stopped_by", r.stopped_by);
  v("ranks", r.ranks);
  v("threads", r.threads);
  v("replicas", r.replicas);
  v("sequence", r.sequence);
  v("tensor", r.tensor);
  v("shift", r.shift);
  v("calibration", r.calibration);
  v("reduction_shards", r.reduction_shards);
  v("kernel_set", r.kernel_set);
  v("transport", r.transport);
  v("numerics", r.numerics);
  v("hosts", r.hosts);
  v("slurm", r.slurm);
  v("git_revision", r.git_revision);
  v("version", r.version);
  v("total", r.total);
  v("per_rank", r.per_rank);
}

template <class T, class Visitor>
void visit(T& t, Visitor&& v, TrafficTotal*) {
  v("bytes", t.bytes);
  v("calls", t.calls);
  v("seconds", t.seconds);
}

template <class T, class Visitor>
void visit(T& s, Visitor&& v, Status*) {
  v("state", s.state);
  v("samples_total", s.samples_total);
  v("done", s.done);
  v("failed", s.failed);
  v("running", s.running);
  v("prompt_tokens", s.prompt_tokens);
  v("output_tokens", s.output_tokens);
  v("taken_up_tokens", s.taken_up_tokens);
  v("tokens_per_second", s.tokens_per_second);
  v("eta_seconds", s.eta_seconds);
  v("elapsed_seconds", s.elapsed_seconds);
  v("ranks", s.ranks);
  v("restarts", s.restarts);
  v("host", s.host);
  v("updated_unix", s.updated_unix);
  v("note", s.note);
}

template <class T>
json fields_to_json(const T& value);
template <class T>
T fields_from_json(const json& in);

json save(const TrafficTotal& value) {
  return fields_to_json(value);
}

template <class T>
json save(const T& value) {
  if constexpr (requires { value.to_json(); }) {
    return json::parse(value.to_json());
  } else {
    return value;
  }
}

template <class T>
json save(const std::vector<T>& list) {
  json out = json::array();
  for (const T& item : list) out.push_back(save(item));
  return out;
}

template <class T>
json save(const std::map<std::string, T>& table) {
  json out = json::object();
  for (const auto& [name, item] : table) out[name] = save(item);
  return out;
}

void restore(const json& in, TrafficTotal& value) {
  value = fields_from_json<TrafficTotal>(in);
}

template <class T>
void restore(const json& in, T& value) {
  if constexpr (requires { T::from_json(std::string()); }) {
    value = T::from_json(in.dump());
  } else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    if (!in.is_number_integer())
      throw Error(fmt::format("damaged job record: {} is no whole number", in.dump()));
    in.get_to(value);
  } else {
    in.get_to(value);
  }
}

template <class T>
void restore(const json& in, std::vector<T>& list) {
  list.clear();
  for (const json& item : in) restore(item, list.emplace_back());
}

template <class T>
void restore(const json& in, std::map<std::string, T>& table) {
  table.clear();
  for (const auto& [name, item] : in.items()) restore(item, table[name]);
}

template <class T>
json fields_to_json(const T& value) {
  json out;
  visit(
      value, [&](const char* name, const auto& field) { out[name] = save(field); }, static_cast<T*>(nullptr));
  return out;
}

template <class T>
T fields_from_json(const json& in) {
  T value;
  visit(
      value, [&](const char* name, auto& field) { restore(in.at(name), field); }, static_cast<T*>(nullptr));
  return value;
}

template <class T>
T parse_fields(const std::string& text) {
  if (nests_deeper(text, kMaxJsonDepth)) throw Error("damaged job record: nested too deeply");
  try {
    return fields_from_json<T>(json::parse(text));
  } catch (const json::exception& error) {
    throw Error(fmt::format("damaged job record: {}", error.what()));
  }
}

// Sums of two counters of a kind.
template <class T>
void accumulate(T& sum, const T& more) {
  sum += more;
}
void accumulate(LatencySketch& sum, const LatencySketch& more) {
  sum.merge(more);
}
template <class T, std::size_t n>
void accumulate(std::array<T, n>& sum, const std::array<T, n>& more) {
  for (std::size_t i = 0; i < n; ++i) sum[i] += more[i];
}
template <class T>
void accumulate(std::map<std::string, T>& sum, const std::map<std::string, T>& more) {
  for (const auto& [name, value] : more) sum[name] += value;
}

}  // namespace

void LatencySketch::add(double seconds, std::uint64_t times) {
  const int bucket =
      static_cast<int>(std::ceil(std::log(std::max(seconds, kSmallest) / kSmallest) / kLogGrowth));
  buckets_[bucket] += times;
  count_ += times;
  sum_ += seconds * static_cast<double>(times);
  max_ = std::max(max_, seconds);
}

void LatencySketch::merge(const LatencySketch& other) {
  for (const auto& [bucket, times] : other.buckets_) buckets_[bucket] += times;
  count_ += other.count_;
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
}

double LatencySketch::quantile(double q) const {
  const auto rank = static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(count_)));
  std::uint64_t seen = 0;
  for (const auto& [bucket, times] : buckets_) {
    seen += times;
    if (seen >= rank) return std::min(max_, kSmallest * std::exp((bucket - 0.5) * kLogGrowth));
  }
  return max_;
}

std::string LatencySketch::to_json() const {
  json buckets = json::array();
  for (const auto& [bucket, times] : buckets_) buckets.push_back({bucket, times});
  return json{{"buckets", buckets}, {"sum", sum_}, {"max", max_}}.dump();
}

LatencySketch LatencySketch::from_json(const std::string& text) {
  const json in = json::parse(text);
  LatencySketch sketch;
  for (const json& pair : in.at("buckets")) {
    sketch.buckets_[pair.at(0).get<int>()] = pair.at(1).get<std::uint64_t>();
    sketch.count_ += pair.at(1).get<std::uint64_t>();
  }
  sketch.sum_ = in.at("sum");
  sketch.max_ = in.at("max");
  return sketch;
}

TrafficTotal& TrafficTotal::operator+=(const TrafficTotal& other) {
  bytes += other.bytes;
  calls += other.calls;
  seconds += other.seconds;
  return *this;
}

void RunCounters::add(const RunCounters& other) {
  RunCounters& mine = *this;
  std::vector<const void*> theirs;
  visit(
      other, [&](const char*, const auto& field) { theirs.push_back(&field); },
      static_cast<RunCounters*>(nullptr));
  std::size_t at = 0;
  visit(
      mine,
      [&](const char*, auto& field) {
        using Field = std::remove_reference_t<decltype(field)>;
        accumulate(field, *static_cast<const Field*>(theirs[at++]));
      },
      static_cast<RunCounters*>(nullptr));
}

std::string RunCounters::to_json() const {
  return fields_to_json(*this).dump();
}
RunCounters RunCounters::from_json(const std::string& text) {
  return parse_fields<RunCounters>(text);
}
std::string RunRecord::to_json() const {
  return fields_to_json(*this).dump();
}
RunRecord RunRecord::from_json(const std::string& text) {
  return parse_fields<RunRecord>(text);
}
std::string Status::to_json() const {
  return fields_to_json(*this).dump();
}
Status Status::from_json(const std::string& text) {
  return parse_fields<Status>(text);
}

fs::path Session::prompts_file(const Job& job) const {
  return job.job.input.extension() == ".jsonl" ? dir_ / "input.h5" : job.job.input;
}

std::int64_t Session::started_unix() const {
  const fs::path file = dir_ / "started";
  if (!fs::exists(file)) io::write_file_atomically(file.string(), std::to_string(std::time(nullptr)));
  const std::string text = read_text(file);
  std::int64_t seconds = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), seconds).ec != std::errc{}) {
    throw Error(fmt::format("{} does not hold the time of the first start", file.string()),
                "start with --restart to set this journal aside");
  }
  return seconds;
}

void Session::write_job(const Job& job) const {
  io::write_file_atomically((dir_ / "job.json").string(), job_to_json(job));
}
Job Session::read_job() const {
  const fs::path file = dir_ / "job.json";
  const std::string text = read_text(file);
  try {
    return job_from_json(text);
  } catch (const json::exception& error) {
    throw Error(fmt::format("{} is damaged: {}", file.string(), error.what()),
                "start with --restart to set this journal aside");
  }
}
void Session::write_status(const Status& status) const {
  // Replaced every second: it need not survive a crash, and the engine need not wait for a disk.
  io::write_file_atomically((dir_ / "status.json").string(), status.to_json(), false);
}

std::optional<Status> Session::read_status() const {
  if (!fs::exists(dir_ / "status.json")) return std::nullopt;
  return Status::from_json(read_text(dir_ / "status.json"));
}

void Session::clear(std::string_view keep) const {
  for (const fs::directory_entry& entry : fs::directory_iterator(dir_)) {
    const std::string name = entry.path().filename().string();
    if (name != "lock" && name != keep) fs::remove_all(entry.path());
  }
}

void Session::check_launcher() const {
  if (launcher_.empty() || io::holder_nonce(dir_.string()) == launcher_) return;
  throw Error(fmt::format("{} belongs to another launcher now", dir_.string()),
              "the one of this rank has ended");
}

void Session::write_run(const RunRecord& run) const {
  io::write_file_atomically((dir_ / fmt::format("run-{:04}.json", run.number)).string(), run.to_json());
}

std::vector<RunRecord> Session::read_runs() const {
  std::vector<RunRecord> runs;
  if (!fs::is_directory(dir_)) return runs;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir_)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("run-") || !name.ends_with(".json")) continue;
    try {
      runs.push_back(RunRecord::from_json(read_text(entry.path())));
    } catch (const Error& error) {
      throw Error(
          fmt::format("{}: {}", entry.path().string(), error.summary()),
          "the storage has damaged it, or another version of nightshift wrote it; without this file the job "
          "continues, and its report lacks that start");
    }
  }
  std::sort(runs.begin(), runs.end(),
            [](const RunRecord& a, const RunRecord& b) { return a.number < b.number; });
  return runs;
}

}  // namespace nightshift::runtime
