// SPDX-License-Identifier: Apache-2.0
// Speed of the model room on random weights of a real shape: prefill, decode, sampling, and where the time
// goes.
//
//   model_bench [--layers N] [--threads N] [--batch N] [--context N] [--kernels SET]
//
// The shape is that of Qwen2.5-0.5B; fewer layers shorten the run without changing the picture. FLOPs are
// those of the products (2 per weight and token) and of attention; shares are of what this machine was just
// measured to reach.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>

#include "kernels/kernels.h"
#include "model/model.h"
#include "model/sampler.h"

namespace nightshift {
namespace {

struct Settings {
  int layers = 24, threads = 0, batch = 32, context = 512;
  std::string kernels = "auto";
};

Settings parse(int argc, char** argv) {
  Settings s;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--layers") s.layers = std::atoi(argv[i + 1]);
    if (key == "--threads") s.threads = std::atoi(argv[i + 1]);
    if (key == "--batch") s.batch = std::atoi(argv[i + 1]);
    if (key == "--context") s.context = std::atoi(argv[i + 1]);
    if (key == "--kernels") s.kernels = argv[i + 1];
  }
  return s;
}

model::ModelConfig qwen_half_billion(int layers) {
  model::ModelConfig config;
  config.model_type = "qwen2";
  config.shape = {.layers = layers,
                  .hidden = 896,
                  .intermediate = 4864,
                  .heads = 14,
                  .kv_heads = 2,
                  .head_dim = 64,
                  .vocab = 151936,
                  .tied_embeddings = true};
  config.rope.theta = 1e6;
  config.max_positions = 32768;
  config.qkv_bias = true;
  config.windows.assign(static_cast<std::size_t>(layers), 0);
  return config;
}

class Run {
 public:
  Run(model::Model& model, int batch, int context) : model_(model), batch_(batch), context_(context) {
    const int blocks = (context + kKvBlockTokens - 1) / kKvBlockTokens;
    for (int s = 0; s < batch; ++s) {
      tokens_.emplace_back();
      for (int i = 0; i < context; ++i) tokens_.back().push_back((i * 7919 + s * 104729) % 150000);
      blocks_.emplace_back();
      for (int i = 0; i < blocks; ++i) blocks_.back().push_back(s * blocks + i);
    }
  }

  // One step: `count` tokens from `computed` on of sequences [first, first + sequences).
  double step(int first, int sequences, int computed, int count, bool samples) {
    BatchPlan plan;
    for (int s = first; s < first + sequences; ++s) {
      PlannedSequence p;
      p.id = static_cast<SequenceId>(s);
      p.computed = computed;
      p.num_tokens = count;
      p.samples = samples;
      p.prompt_tokens = computed + count;
      p.tokens = tokens_[static_cast<std::size_t>(s)];
      p.blocks = blocks_[static_cast<std::size_t>(s)];
      p.sampling = &sampling_;
      plan.sequences.push_back(p);
    }
    model_.submit(plan);
    return model_.collect().compute_seconds;
  }

  void report(const char* name, double seconds, std::int64_t tokens, double pairs, double head_rows,
              double bytes) {
    const auto& shape = model_.config().shape;
    const double flops = 2.0 * static_cast<double>(shape.matrix_parameters()) * static_cast<double>(tokens) +
                         2.0 * static_cast<double>(shape.embedding_parameters()) * head_rows +
                         4.0 * shape.layers * shape.heads * shape.head_dim * pairs;
    fmt::print(
        "{:<28}{:>9.1f} tokens/s {:>9.2f} ms {:>8.1f} GFLOP/s = {:>5.1f} % of peak {:>7.1f} GB/s = {:>5.1f} "
        "%\n",
        name, static_cast<double>(tokens) / seconds, seconds * 1e3, flops / seconds / 1e9,
        100 * flops / seconds / peak_.bf16_flops, bytes / seconds / 1e9,
        100 * bytes / seconds / peak_.read_bandwidth);
  }

  void all() {
    const auto& shape = model_.config().shape;
    peak_ = model_.measured_peak();
    fmt::print("peak {:.0f} GFLOP/s, {:.1f} GB/s\n", peak_.bf16_flops / 1e9, peak_.read_bandwidth / 1e9);
    const double weights = 2.0 * static_cast<double>(shape.matrix_parameters());
    const double head = 2.0 * static_cast<double>(shape.embedding_parameters());
    const int chunk = std::min(512, context_ - 1);
    table("prefill", [&] {
      const double seconds = best(5, [&] { return step(0, 1, 0, chunk, false); });
      report("prefill, one chunk", seconds, chunk, 0.5 * chunk * chunk, 0, weights);
    });
    for (int s = 0; s < batch_; ++s)  // fills the cache
      for (int done = 0; done < context_ - 1; done += chunk)
        step(s, 1, done, std::min(chunk, context_ - 1 - done), false);
    for (const int size : {1, 8, batch_})
      table("decode", [&] {
        const double seconds = best(5, [&] { return step(0, size, context_ - 1, 1, true); });
        const double kv = static_cast<double>(shape.kv_bytes_per_token()) * context_ * size;
        report(fmt::format("decode, {} at {} tokens", size, context_).c_str(), seconds, size,
               static_cast<double>(size) * context_, size, weights + head + kv);
      });
  }

 private:
  template <class F>
  static double best(int rounds, F&& work) {
    double least = 1e300;
    for (int i = 0; i < rounds; ++i) least = std::min(least, work());
    return least;
  }

  template <class F>
  void table(const char* name, F&& work) {
    const auto before = model_.times();
    work();
    const auto after = model_.times();
    double total = 0.0;
    for (std::size_t i = 0; i < after.size(); ++i) total += after[i].seconds - before[i].seconds;
    std::string line = fmt::format("  {}:", name);
    for (std::size_t i = 0; i < after.size(); ++i)
      line +=
          fmt::format(" {} {:.1f} %", after[i].name, 100 * (after[i].seconds - before[i].seconds) / total);
    fmt::print("{}\n", line);
  }

  model::Model& model_;
  int batch_, context_;
  model::Peak peak_;
  SamplingParams sampling_;
  std::vector<std::vector<TokenId>> tokens_;
  std::vector<std::vector<BlockId>> blocks_;
};

// CPU time, so that a busy machine does not blur it.
double thread_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// One row of 151,936 logits, one thread.
void sampling() {
  constexpr int kVocab = 151936;
  std::vector<float> logits(kVocab);
  for (std::size_t i = 0; i < logits.size(); ++i) {  // steep at the top, like a language model's
    const double u = model::uniform(1, i);
    logits[i] = static_cast<float>(-3.0 * std::log(u + 1e-12) - 12.0);
  }
  const std::vector<TokenId> tokens(1000, 5);
  const auto time = [&](const char* name, const SamplingParams& params) {
    PlannedSequence s;
    s.num_tokens = static_cast<int>(tokens.size());
    s.prompt_tokens = 500;
    s.tokens = tokens;
    s.sampling = &params;
    const model::Sampler sampler(kVocab, {2});
    model::Sampler::Scratch scratch;
    double least = 1e300;
    for (std::uint64_t i = 0; i < 30; ++i) {
      s.random_key = i;
      const double start = thread_seconds();
      (void)sampler.sample(logits, s, scratch);
      least = std::min(least, thread_seconds() - start);
    }
    fmt::print("  {:<32}{:>8.0f} us\n", name, least * 1e6);
  };
  fmt::print("sampling one of {} logits, one thread\n", kVocab);
  SamplingParams params;
  time("greedy", params);
  params.logprobs = 5;
  time("greedy, 5 logprobs", params);
  params.logprobs = 0;
  params.temperature = 0.8;
  time("temperature", params);
  params.top_p = 0.95;
  time("top-p 0.95", params);
  params.top_k = 50;
  time("top-k 50, top-p 0.95", params);
  params.repetition_penalty = 1.1;
  time("the same, repetition penalty", params);
}

void bench(const Settings& s) {
  model::ModelOptions options;
  options.kernels = s.kernels;
  options.threads = s.threads;
  options.limits = {.max_context = s.context,
                    .max_query_tokens = 512,
                    .max_sampled_rows = std::max(8, s.batch),
                    .kv_blocks = static_cast<std::int64_t>(std::max(8, s.batch)) * ((s.context + 15) / 16)};
  const auto config = qwen_half_billion(s.layers);
  const auto start = std::chrono::steady_clock::now();
  const auto model = model::Model::random(config, options, 1);
  fmt::print("{} layers, kernels {}, {:.2f} GB of weights made in {:.1f} s\n", s.layers, model->kernels(),
             static_cast<double>(model->memory().weights) / 1e9,
             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  Run(*model, std::max(8, s.batch), s.context).all();
  sampling();
}

}  // namespace
}  // namespace nightshift

int main(int argc, char** argv) {
  const nightshift::Settings settings = nightshift::parse(argc, argv);
  const nightshift::kernels::Environment environment(settings.threads);
  nightshift::bench(settings);
}
