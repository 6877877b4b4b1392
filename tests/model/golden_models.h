// SPDX-License-Identifier: Apache-2.0
// The models of make_goldens.py on the C++ side, and a driver that feeds one model without a scheduler.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/model.h"
#include "model_files/model_dir.h"

namespace nightshift::test {

std::filesystem::path goldens_path();

struct Golden {
  std::string name;
  nlohmann::json config;   // null: goldens/saved holds the directory
  nlohmann::json tensors;  // name -> shape
  int max_context = 0;
  std::vector<TokenId> prompt;
  std::vector<TokenId> tokens;  // 64 greedy ones
  std::vector<float> logits;    // [64][vocab] of transformers in fp32
  std::vector<float> rounded;  // [64][vocab] of transformers with bf16 inputs to every product: our precision
};
Golden read_golden(const std::string& name);
std::vector<std::string> golden_names();

// Same numbers as weight_values() in make_goldens.py.
std::vector<float> weight_values(const std::string& name, const std::vector<std::int64_t>& shape,
                                 double embedding_scale);
std::string encode(const std::vector<float>& values, const std::string& dtype);  // BF16, F16 or F32

struct Written {
  std::string dtype = "BF16";
  int shards = 1;
  std::string prefix;   // before every tensor's name
  bool nested = false;  // configuration inside text_config
};
void write_model(const Golden& golden, const std::filesystem::path& directory, const Written& how = {});

// A sequence outside any scheduler: it owns what PlannedSequence points to.
struct TestSequence {
  SequenceId id = 0;
  std::vector<TokenId> tokens;
  int prompt_tokens = 0;
  int computed = 0;
  std::vector<BlockId> blocks;
  SamplingParams sampling;
  std::uint64_t key = 0;

  PlannedSequence plan(int count) const;  // the next `count` tokens; samples when they are the last known
};
TestSequence make_sequence(SequenceId id, const std::vector<TokenId>& prompt, BlockId first_block,
                           int max_context);

// Runs one plan over the sequences, `counts[i]` tokens of each, and appends what was sampled.
StepResult step(model::Model& model, const std::vector<TestSequence*>& sequences,
                const std::vector<int>& counts, parallel::Layout layout = parallel::Layout::base);

model::ModelOptions small_options(int max_context, int kv_blocks = 64);

}  // namespace nightshift::test
