// SPDX-License-Identifier: Apache-2.0
// Everything that can be refused is refused here, before a rank starts and before anything is written.
#pragma once

#include <string>

#include "cli/model_facts.h"
#include "core/config.h"
#include "io/manifest.h"
#include "runtime/job/geometry.h"
#include "runtime/job/standing.h"

namespace nightshift::cli {

struct Preflight {
  // As the ranks will read it: max_context, degrees, threads and the kernel set of a continued job filled in.
  Job job;
  ModelFacts model;
  io::Manifest manifest = {};
  runtime::Start start = runtime::Start::fresh;
  runtime::Machine machine = {};
  runtime::Geometry geometry = {};
  runtime::LaunchCommand command = {};
  bool gpu = false;               // computes on GPUs, as far as this machine knows
  model::MemoryNeed memory = {};  // with the least KV cache that can work; on GPUs: of a rank
};

// What does not depend on the machine: input, model, prompts and places to write. Fills in job and model.
Preflight check_files(Job job);

// All of it. Throws BadInput, with the way out, for whatever would make the job fail later.
Preflight check_job(Job job, int ranks, bool restart, bool retry_failed);

// The prompts of a job fit its model: refuses chat messages without a chat template.
void check_prompts(const std::string& prompts_file, const Preflight& checked);

}  // namespace nightshift::cli
