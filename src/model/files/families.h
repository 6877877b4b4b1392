// SPDX-License-Identifier: Apache-2.0
// Model families as data: how each names its weights and which optional parts it has. A family that differs
// from the ones here only in names and switches is one more row in families.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/files/config.h"

namespace nightshift::model {

// The roles a tensor can play in the forward pass.
enum class Weight : std::uint8_t {
  embedding,
  final_norm,
  head,  // once per model
  attention_norm,
  q,
  k,
  v,
  o,
  q_bias,
  k_bias,
  v_bias,
  o_bias,
  q_norm,
  k_norm,  // once per layer
  mlp_norm,
  gate,
  up,
  down,
  gate_bias,
  up_bias,
  down_bias,
};

constexpr bool is_per_layer(Weight weight) {
  return weight >= Weight::attention_norm;
}

// [rows, columns] as Hugging Face stores it: rows are outputs. Vectors have columns = 0.
struct WeightShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  bool operator==(const WeightShape&) const = default;
};
WeightShape expected_shape(Weight weight, const ModelShape& shape);

// When a family has a weight at all.
enum class Needs : std::uint8_t { nothing, own_head, qkv_bias, o_bias, mlp_bias, qk_norm };
bool is_needed(Needs needs, const ModelConfig& config);

struct WeightName {
  Weight weight;
  Needs needs;
  std::string_view name;  // below "model." or "model.layers.<i>."; the head stands outside
};

enum class Switch : std::uint8_t {
  off,
  on,
  configured
};  // configured: attention_bias or mlp_bias of config.json

enum class WindowRule : std::uint8_t {
  none,        // full attention always (Llama)
  all_layers,  // sliding_window on every layer unless null (Mistral)
  switched,    // only with use_sliding_window, from layer max_window_layers on (Qwen2, Qwen3)
};

struct Family {
  std::string_view model_type;
  std::span<const WeightName> names;
  Switch qkv_bias;
  Switch o_bias;
  Switch mlp_bias;
  bool qk_norm;
  WindowRule windows;
  int default_head_dim;  // when config.json has none; 0: hidden_size / num_attention_heads
};

// nullptr for an unknown one.
const Family* find_family(std::string_view model_type);
std::string known_families();  // "llama, mistral, ..."

}  // namespace nightshift::model
