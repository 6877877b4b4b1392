// SPDX-License-Identifier: Apache-2.0
#include "cli/preflight.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "core/text.h"
#include "io/prompts.h"
#include "parallel/layout/shift_policy.h"
#include "runtime/job/limits.h"
#include "runtime/job/retry.h"

namespace nightshift::cli {
namespace {

namespace fs = std::filesystem;

// A file of ours can be made there, in a folder that may not exist yet.
void check_writable(const fs::path& file, std::string_view key) {
  if (fs::is_directory(file)) {
    throw BadInput(fmt::format("{} {} is a folder", key, file.string()), "name a file in it");
  }
  fs::path folder = file.parent_path();
  while (!fs::exists(folder) && folder.has_relative_path()) folder = folder.parent_path();
  if (!fs::is_directory(folder) || ::access(folder.c_str(), W_OK | X_OK) != 0) {
    throw BadInput(fmt::format("cannot write to {}, where {} is to stand", folder.string(), key),
                   fmt::format("name another {} or change the permissions", key));
  }
}

void check_input(const fs::path& input) {
  if (!fs::exists(input)) {
    throw BadInput(fmt::format("no input {}", input.string()),
                   "job.input names a prompts file (.h5) or OpenAI batch lines (.jsonl)");
  }
  if (fs::is_directory(input) || ::access(input.c_str(), R_OK) != 0) {
    throw BadInput(fmt::format("cannot read {}", input.string()), "job.input is to be a readable file");
  }
}

void resolve_context(Job& job, const model::ModelConfig& config) {
  const std::int64_t longest = model::longest_context(config);
  if (job.model.max_context && *job.model.max_context > longest) {
    throw BadInput(fmt::format("model.max_context = {}, but {} was made for {} tokens",
                               *job.model.max_context, job.model.path.string(), longest),
                   fmt::format("lower it to {} or leave it at \"auto\"", longest));
  }
  job.model.max_context = job.model.max_context.value_or(longest);
}

void check_kernels(const std::string& kernels) {
  if (kernels != "avx512_bf16") return;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16") != 0) return;
#endif
  throw BadInput("run.kernels = \"avx512_bf16\", but this processor has no AVX512-BF16",
                 "run.kernels = \"portable\" runs everywhere; \"auto\" takes the best there is");
}

// Before anything counts ranks: a remedy should not propose what the model cannot do.
void check_degrees(const Job& job, const ModelShape& shape) {
  const parallel::Degrees degrees = runtime::degrees_of(job);
  parallel::check_degrees(shape, degrees, parallel::setting_shifts(job.parallel.shift, degrees));
}

// Weights, buffers of a step, and the KV cache that the job names or, at auto, of one longest sequence.
model::MemoryNeed least_memory(const Job& job, const model::ModelConfig& config,
                               const parallel::Degrees& degrees, bool gpu) {
  const model::StepLimits limits = runtime::least_limits(job, config, degrees, gpu);
  model::MemoryNeed need =
      gpu ? model::gpu_bytes_needed(config, limits, degrees) : model::bytes_needed(config, limits, degrees);
  if (job.schedule.kv_memory)
    need.kv_cache = std::max(need.kv_cache, static_cast<std::int64_t>(job.schedule.kv_memory->value));
  return need;
}

std::string rank_program() {
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path() / "nightshift-rank";
  if (::access(program.c_str(), X_OK) == 0) return program.string();
  throw Error(fmt::format("no {}", program.string()),
              "nightshift-rank is installed beside nightshift; build it too");
}

void check_launcher(const std::string& launcher) {
  std::istringstream path(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
  for (std::string folder; std::getline(path, folder, ':');) {
    if (::access((fs::path(folder) / launcher).c_str(), X_OK) == 0) return;
  }
  throw BadInput(fmt::format("{} is not in PATH", launcher), "load the MPI module, or install openmpi-bin");
}

std::string input_digest(const fs::path& input) {
  return io::digest_file(input.string()).text();
}

}  // namespace

void check_prompts(const std::string& prompts_file, const Preflight& checked) {
  const io::PromptReader prompts(prompts_file, checked.job.sampling);
  prompts.check_all_rows();
  if (prompts.form() == io::PromptForm::messages && !checked.model.chat.exists()) {
    throw BadInput(fmt::format("{} holds chat messages, but the model has no chat template", prompts_file),
                   "model.chat_template can name a Jinja file");
  }
}

Preflight check_files(Job job) {
  check_input(job.job.input);
  check_writable(job.job.output, "job.output");
  if (!job.run.trace.empty()) check_writable(job.run.trace, "run.trace");
  ModelFacts facts = read_model_facts(job.model.path, job.model.chat_template);
  Preflight p{.job = std::move(job), .model = std::move(facts)};
  check_degrees(p.job, p.model.files.config.shape);
  resolve_context(p.job, p.model.files.config);
  if (p.job.job.input.extension() != ".jsonl") check_prompts(p.job.job.input.string(), p);
  return p;
}

Preflight check_job(Job job, int ranks, bool restart, bool retry_failed) {
  check_kernels(job.run.kernels);
  Preflight p = check_files(std::move(job));
  p.machine = runtime::probe_machine();
  p.geometry = runtime::resolve_geometry(p.job, ranks, p.machine);
  const runtime::Geometry& geometry = p.geometry;
  const model::ModelConfig& config = p.model.files.config;
  p.job.parallel.replicas = geometry.replicas;
  p.job.parallel.sequence = geometry.degrees.sequence;
  p.job.parallel.tensor = geometry.degrees.tensor;
  p.manifest = runtime::manifest_of(p.job, input_digest(p.job.job.input), p.model.digest());
  p.start = runtime::decide_start(p.job, p.manifest, restart);
  const bool reopens = p.start == runtime::Start::complete && retry_failed;
  std::string kernels = p.start == runtime::Start::resume ? runtime::kernels_in_use(p.job) : "";
  if (reopens) kernels = runtime::kernels_of_result(p.job);
  if (!kernels.empty()) check_kernels(p.job.run.kernels = kernels);
  runtime::check_device(p.job, p.machine);
  p.gpu = p.machine.gpus > 0 && runtime::may_use_gpus(p.job);
  p.memory = least_memory(p.job, config, geometry.degrees, p.gpu);
  p.job.run.threads = p.geometry.threads;
  if (!p.gpu && (p.start != runtime::Start::complete || reopens)) {  // ranks look at their GPUs themselves
    runtime::check_memory(p.memory, p.geometry.ranks_per_node, p.machine);
  }
  p.command = runtime::launch_command(p.geometry, p.machine, rank_program(), p.job.journal_dir().string());
  check_launcher(p.command.argv.front());
  return p;
}

}  // namespace nightshift::cli
