// SPDX-License-Identifier: Apache-2.0
// A model's config.json and generation_config.json, as one checked record. Both schemas are read: the old one
// (rope_theta, rope_scaling, torch_dtype at the top) and that of transformers 5 (rope_parameters, dtype), and
// for multimodal wrappers the nested text section. What would silently change the arithmetic and is not known
// here (a RoPE kind, an activation, experts, quantization) is refused by name.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/types.h"
#include "model/files/rope.h"

namespace nightshift::model {

// Sampling hints of generation_config.json; reported, never applied behind the job file's back.
struct GenerationHints {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> repetition_penalty;
  std::optional<std::int64_t> top_k;
};

struct ModelConfig {
  std::string model_type;  // a row of the family table: llama, mistral, qwen2, qwen3
  ModelShape shape;
  RopeConfig rope;
  double rms_norm_eps = 1e-6;
  int max_positions = 0;  // max_position_embeddings
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;           // RMS norm over each head of Q and K, before RoPE
  std::vector<int> windows;       // [layers]: a token sees itself and the window-1 before it; 0: all
  std::vector<TokenId> stop_ids;  // end-of-sequence ids of both files, ascending
  DType dtype = DType::bf16;      // as the configuration claims; the tensors decide
  GenerationHints hints;
};

// Throws BadInput naming file and key. Reads nothing but the two JSON files.
ModelConfig read_model_config(const std::filesystem::path& directory);

// Tokens (prompt and answer together) beyond which the model was never meant to go. For linear, dynamic and
// yarn RoPE this is the extended length.
std::int64_t longest_context(const ModelConfig& config);

}  // namespace nightshift::model
