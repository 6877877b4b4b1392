// SPDX-License-Identifier: Apache-2.0
#include "cli/preflight.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "core/text.h"
#include "io/prompts.h"

namespace nightshift::cli {
namespace {

namespace fs = std::filesystem;

void check_output(const fs::path& output) {
  if (fs::is_directory(output)) {
    throw BadInput(fmt::format("job.output {} is a folder", output.string()), "name a file, e.g. answers.h5");
  }
  fs::path folder = output.parent_path();
  while (!fs::exists(folder) && folder.has_relative_path()) folder = folder.parent_path();
  if (!fs::is_directory(folder) || ::access(folder.c_str(), W_OK | X_OK) != 0) {
    throw BadInput(fmt::format("cannot write to {}, where job.output is to stand", folder.string()),
                   "name another job.output or change the permissions");
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

// What a rank needs at the least: weights, buffers of a step, and the KV cache of one longest sequence or the
// amount that the job names. Mirrors how ranks size their pools.
model::MemoryNeed memory_need(const Job& job, const model::ModelConfig& config) {
  constexpr std::int64_t kBudget = 512;
  model::StepLimits limits;
  limits.max_context = *job.model.max_context;
  const std::int64_t sequences = job.schedule.max_sequences;
  limits.max_query_tokens =
      static_cast<int>(std::max(job.schedule.token_budget.value_or(kBudget), sequences));
  limits.max_sampled_rows = static_cast<int>(sequences);
  limits.kv_blocks = (limits.max_context + kKvBlockTokens - 1) / kKvBlockTokens;
  model::MemoryNeed need = model::bytes_needed(config, limits);
  if (job.schedule.kv_memory) {
    need.kv_cache = std::max(need.kv_cache, static_cast<std::int64_t>(job.schedule.kv_memory->value));
  }
  return need;
}

void check_memory(const Preflight& p) {
  const double need = static_cast<double>(p.memory.total()) * p.geometry.ranks_per_node;
  const auto have = static_cast<double>(p.machine.memory_bytes);
  if (have == 0 || need <= have) return;
  throw BadInput(
      fmt::format("{} ranks on this machine need at least {} ({} weights and {} KV cache each), {} is free",
                  p.geometry.ranks_per_node, format_bytes(need),
                  format_bytes(static_cast<double>(p.memory.weights)),
                  format_bytes(static_cast<double>(p.memory.kv_cache)), format_bytes(have)),
      "fewer --ranks, a smaller model.max_context or schedule.kv_memory, or a larger machine");
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

Preflight check_job(Job job, int ranks, bool restart) {
  check_input(job.job.input);
  check_output(job.job.output);
  check_kernels(job.run.kernels);
  const runtime::Machine machine = runtime::probe_machine();
  const runtime::Geometry geometry = runtime::resolve_geometry(job, ranks, machine);
  ModelFacts facts = read_model_facts(job.model.path, job.model.chat_template);
  Preflight p{.job = std::move(job), .model = std::move(facts)};
  p.machine = machine;
  p.geometry = geometry;
  resolve_context(p.job, p.model.files.config);
  p.memory = memory_need(p.job, p.model.files.config);
  if (p.job.job.input.extension() != ".jsonl") check_prompts(p.job.job.input.string(), p);
  p.manifest = runtime::manifest_of(p.job, input_digest(p.job.job.input), p.model.digest());
  p.start = runtime::decide_start(p.job, p.manifest, restart);
  const std::string kernels = p.start == runtime::Start::resume ? runtime::kernels_in_use(p.job) : "";
  if (!kernels.empty()) check_kernels(p.job.run.kernels = kernels);
  p.job.run.threads = p.geometry.threads;
  if (p.start != runtime::Start::complete) check_memory(p);
  p.command = runtime::launch_command(p.geometry, p.machine, rank_program(), p.job.journal_dir().string());
  check_launcher(p.command.argv.front());
  return p;
}

}  // namespace nightshift::cli
