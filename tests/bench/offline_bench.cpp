// SPDX-License-Identifier: Apache-2.0
// An offline job on random weights of Llama-3.1-8B's shape, through the scheduler and the model's door, as
// Markdown: tokens per second, the share of the serial roofline, and how long the device had nothing to do.
//
//   offline_bench [--input N] [--output N] [--requests N] [--concurrency N] [--budget N] [--depth N]
//   [--layers N]
//                 [--kernels SET] [--shape 8b|tiny] [--load FOLDER]
//
// Serial roofline: every product at the rate of one large product, every KV byte at the rate of a copy, both
// measured here before the job, one after the other (2 P_b (i + o - 1) + 2 P_h o + 2 n_h d_h L i^2
// operations, o kappa (i + o / 2) bytes a request).
// --depth: steps in flight. --load: instead of a job, loads the model in FOLDER and gives its bytes per
// second.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "kernels/kernels.h"
#include "model/model.h"
#include "scheduler/scheduler.h"

namespace nightshift {
namespace {

struct Lengths {
  int input = 1024, output = 512;
  int context() const { return input + output; }
};

struct Settings {
  std::vector<Lengths> jobs;  // one after the other, on one model
  int requests = 512, concurrency = 256, budget = 8192, depth = 1, layers = 0;
  std::string kernels = "cuda", shape = "8b", load;
  int longest() const {
    int context = 0;
    for (const Lengths& job : jobs) context = std::max(context, job.context());
    return context;
  }
};

Settings parse(int argc, char** argv) {
  Settings s;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    const auto number = [&](const char* name, int& to) {
      if (key == name) to = std::atoi(value.c_str());
    };
    number("--requests", s.requests);
    number("--concurrency", s.concurrency);
    number("--budget", s.budget);
    number("--depth", s.depth);
    number("--layers", s.layers);
    if (key == "--kernels") s.kernels = value;
    if (key == "--shape") s.shape = value;
    if (key == "--load") s.load = value;
    std::istringstream list(key == "--jobs" ? value : "");
    for (std::string job; std::getline(list, job, ',');)
      s.jobs.push_back({std::atoi(job.c_str()), std::atoi(job.substr(job.find('/') + 1).c_str())});
  }
  if (s.jobs.empty()) s.jobs.push_back({});
  return s;
}

model::ModelConfig config_of(const Settings& s) {
  model::ModelConfig config;
  config.model_type = "llama";
  const bool tiny = s.shape == "tiny";
  const int layers = s.layers > 0 ? s.layers : tiny ? 2 : 32;
  config.shape = {.layers = layers,
                  .hidden = tiny ? 64 : 4096,
                  .intermediate = tiny ? 96 : 14336,
                  .heads = tiny ? 4 : 32,
                  .kv_heads = tiny ? 2 : 8,
                  .head_dim = tiny ? 16 : 128,
                  .vocab = tiny ? 500 : 128256,
                  .tied_embeddings = false};
  config.rope.theta = 5e5;
  config.max_positions = 131072;
  config.windows.assign(static_cast<std::size_t>(layers), 0);
  return config;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int blocks_of(int tokens) {
  return (tokens + kKvBlockTokens - 1) / kKvBlockTokens;
}

// Output tokens per second if products and KV reads took turns at the measured rates.
double serial_roofline(const ModelShape& shape, const model::Peak& peak, double in, double out) {
  const double body = static_cast<double>(shape.matrix_parameters());
  const double head = static_cast<double>(shape.embedding_parameters());
  const double flops = 2 * body * (in + out - 1) + 2 * head * out +
                       2.0 * shape.heads * shape.head_dim * shape.layers * in * in;
  const double bytes = out * static_cast<double>(shape.kv_bytes_per_token()) * (in + out / 2);
  return out / (flops / peak.bf16_flops + bytes / peak.read_bandwidth);
}

struct Measured {
  double seconds = 0.0, computing = 0.0;
  std::uint64_t steps = 0;
  std::int64_t tokens = 0;
};

class Job {
 public:
  Job(model::Model& model, const Settings& s, Lengths lengths, int requests)
      : model_(model), settings_(s), scheduler_(options()) {
    for (int i = 0; i < requests; ++i) {
      scheduler::Request request;
      request.id = static_cast<SequenceId>(i);
      for (int t = 0; t < lengths.input; ++t)
        request.prompt.push_back(
            static_cast<TokenId>((t * 7919LL + i * 104729LL) % model.config().shape.vocab));
      request.params.max_tokens = lengths.output;
      request.params.ignore_eos = true;
      if (const auto refused = scheduler_.add(std::move(request)))
        throw Error(fmt::format("request {}: {}", i, *refused), "shorter --jobs");
    }
    scheduler_.close();
  }

  Measured run() {
    Measured m;
    const double start = now();
    while (!scheduler_.idle()) {
      const BatchPlan& plan = scheduler_.plan();
      if (!plan.empty()) model_.submit(plan);
      if (!plan.empty() && scheduler_.in_flight() < settings_.depth) continue;
      const StepResult result = model_.collect();
      m.computing += result.compute_seconds;
      ++m.steps;
      for (const scheduler::Finished& f : scheduler_.commit(result))
        m.tokens += static_cast<std::int64_t>(f.output.size());
    }
    m.seconds = now() - start;
    return m;
  }

 private:
  scheduler::Options options() const {
    scheduler::Options o;
    o.token_budget = settings_.budget;
    o.max_sequences = settings_.concurrency;
    o.kv_blocks = static_cast<int>(model_.limits().kv_blocks);
    o.max_context = static_cast<int>(model_.limits().max_context);
    o.prefix_cache = false;
    o.pipeline_depth = settings_.depth;
    return o;
  }

  model::Model& model_;
  Settings settings_;
  scheduler::Scheduler scheduler_;
};

model::ModelOptions options_for(const Settings& s) {
  model::ModelOptions options;
  options.gpu = s.kernels.starts_with("cuda");
  options.strict = s.kernels != "cuda_fast";
  if (!options.gpu) options.kernels = s.kernels;
  options.limits = {.max_context = s.longest(),
                    .max_query_tokens = std::max(s.budget, s.concurrency),
                    .max_sampled_rows = s.concurrency,
                    .kv_blocks = std::int64_t{s.concurrency} * blocks_of(s.longest()) * 102 / 100 + 8};
  return options;
}

model::Peak measured_peak(model::Model& model) {
  model::Peak peak;
  for (int i = 0; i < 3; ++i) {
    const model::Peak again = model.measured_peak();
    peak.bf16_flops = std::max(peak.bf16_flops, again.bf16_flops);
    peak.read_bandwidth = std::max(peak.read_bandwidth, again.read_bandwidth);
  }
  return peak;
}

void run_job(model::Model& model, const Settings& s, Lengths lengths) {
  const model::Peak peak = measured_peak(model);
  Job(model, s, {lengths.input, std::min(lengths.output, 4)}, std::min(s.requests, s.concurrency))
      .run();  // warms up
  const Measured m = Job(model, s, lengths, s.requests).run();
  const double rate = static_cast<double>(m.tokens) / m.seconds;
  const double roof = serial_roofline(model.config().shape, peak, lengths.input, lengths.output);
  fmt::print("\n| {} in / {} out, {} | |\n|---|---|\n", lengths.input, lengths.output, model.kernels());
  fmt::print("| measured product, copy | {:.1f} TFLOP/s, {:.1f} GB/s |\n", peak.bf16_flops * 1e-12,
             peak.read_bandwidth * 1e-9);
  fmt::print("| output tokens/s | {:.1f} |\n| all tokens/s | {:.1f} |\n", rate,
             rate * lengths.context() / lengths.output);
  fmt::print("| share of the serial roofline ({:.0f} tokens/s) | {:.1f} % |\n", roof, 100 * rate / roof);
  fmt::print("| steps | {}, {:.3f} ms each |\n", m.steps, 1e3 * m.seconds / static_cast<double>(m.steps));
  fmt::print("| device idle | {:.2f} % |\n", 100 * (1 - m.computing / m.seconds));
  std::fflush(stdout);
}

void run_jobs(const Settings& s) {
  const double start = now();
  const auto model = model::Model::random(config_of(s), options_for(s), 1);
  fmt::print(
      "Shape {}, {} layers, {:.2f} GB of weights made in {:.0f} s. {} requests, {} at a time, {} tokens a "
      "step, {} steps in "
      "flight.\n",
      s.shape, model->config().shape.layers, static_cast<double>(model->memory().weights) * 1e-9,
      now() - start, s.requests, s.concurrency, s.budget, s.depth);
  for (const Lengths& lengths : s.jobs) run_job(*model, s, lengths);
}

// Twice: the second reads from the page cache what the first may have read from a disk.
void run_load(const Settings& s) {
  const model::ModelFiles files = model::open_model_files(s.load);
  double bytes = 0.0;
  for (const auto& entry : std::filesystem::directory_iterator(s.load))
    if (entry.path().extension() == ".safetensors") bytes += static_cast<double>(entry.file_size());
  fmt::print("| loading {:.2f} GB, {} | |\n|---|---|\n", bytes * 1e-9, s.kernels);
  for (const char* const which : {"first", "second"}) {
    const double start = now();
    (void)model::Model::load(files, options_for(s));
    fmt::print("| {} | {:.2f} GB/s |\n", which, bytes * 1e-9 / (now() - start));
  }
}

}  // namespace
}  // namespace nightshift

int main(int argc, char** argv) {
  const nightshift::Settings settings = nightshift::parse(argc, argv);
  const nightshift::kernels::Environment environment;
  try {
    settings.load.empty() ? nightshift::run_jobs(settings) : nightshift::run_load(settings);
  } catch (const nightshift::Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
