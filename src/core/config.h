// SPDX-License-Identifier: Apache-2.0
// The job file: one TOML document, resolved and checked before any rank starts. Every key is declared once,
// in config.cpp; parsing, --set, --dry-run, the manual page and the provenance record all walk that one
// table.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/types.h"

namespace nightshift {

// nullopt stands for "auto" in the file.
template <class T>
using Auto = std::optional<T>;

// An amount of memory, written as "12GiB" in the file.
struct ByteCount {
  std::uint64_t value = 0;
};

struct Job {
  struct {
    std::string name;                      // default: the job file's stem
    std::filesystem::path input;           // .h5 or .jsonl
    std::filesystem::path output;          // .h5
    double max_failed = 0.01;              // share of prompts that may fail before exit code 3
    Auto<std::int64_t> max_answer_tokens;  // of any answer, whatever its prompt asks for; auto: no bound
  } job;

  struct {
    std::filesystem::path path;  // Hugging Face directory
    std::string dtype = "bf16";
    std::string chat_template = "auto";  // auto | none | a file
    Auto<std::int64_t> max_context;      // tokens; auto: what the model was made for
  } model;

  struct {
    Auto<std::int64_t> replicas;
    Auto<std::int64_t> sequence;
    Auto<std::int64_t> tensor;
    std::string shift = "auto";      // auto | never | always | a token count | random:SEED
    std::string transport = "auto";  // auto | nccl | mpi
  } parallel;

  struct {
    Auto<std::int64_t> token_budget;   // query tokens per step
    Auto<std::int64_t> max_sequences;  // running at once, per replica
    Auto<ByteCount> kv_memory;         // per rank
    bool prefix_cache = true;
  } schedule;

  SamplingParams sampling;

  struct {
    std::string device = "auto";    // auto | cpu | cuda
    Auto<std::int64_t> threads;     // per rank
    std::string numerics = "auto";  // auto | strict | fast
    std::string kernels = "auto";   // auto | portable | avx512_bf16 | cuda | cuda_fast: one set for all
    double checkpoint_seconds = 30;
    double stop_before_end_seconds = 120;
    std::int64_t max_restarts = 5;  // of the ranks after failures, in a row without an answer
    double hang_seconds = 300;      // a rank that gets nowhere for so long has failed; 0: never
    std::int64_t crash_tries = 3;   // failures of its ranks until a prompt is set aside; 0: never
    std::filesystem::path trace;    // .json; empty: none
  } run;

  std::filesystem::path file;  // where it came from

  std::filesystem::path journal_dir() const { return output_sibling(".journal"); }
  std::filesystem::path output_sibling(const char* suffix) const;
};

// Reads and checks a job file, then applies `key.path=value` overrides in order. Relative paths are resolved
// against the job file's folder (overrides: against the working directory). Throws BadInput naming file,
// line, key, what is there, what would be legal, and for an unknown key the nearest known one.
Job load_job(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});

// The resolved job: TOML for --dry-run, JSON for provenance and for handing it to the ranks.
std::string job_to_toml(const Job& job);
std::string job_to_json(const Job& job);
Job job_from_json(std::string_view json);  // of job_to_json; the ranks' way in

struct JobKey {
  std::string section, name, kind, value, help;  // value: the default, as it would stand in a file
};
std::vector<JobKey> job_keys();  // for --help, completion and docs

}  // namespace nightshift
