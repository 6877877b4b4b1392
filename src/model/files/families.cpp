// SPDX-License-Identifier: Apache-2.0
#include "model/files/families.h"

#include <array>

#include "core/check.h"

namespace nightshift::model {

namespace {

constexpr std::array kStandardNames{
    WeightName{Weight::embedding, Needs::nothing, "embed_tokens.weight"},
    WeightName{Weight::final_norm, Needs::nothing, "norm.weight"},
    WeightName{Weight::head, Needs::own_head, "lm_head.weight"},
    WeightName{Weight::attention_norm, Needs::nothing, "input_layernorm.weight"},
    WeightName{Weight::q, Needs::nothing, "self_attn.q_proj.weight"},
    WeightName{Weight::k, Needs::nothing, "self_attn.k_proj.weight"},
    WeightName{Weight::v, Needs::nothing, "self_attn.v_proj.weight"},
    WeightName{Weight::o, Needs::nothing, "self_attn.o_proj.weight"},
    WeightName{Weight::q_bias, Needs::qkv_bias, "self_attn.q_proj.bias"},
    WeightName{Weight::k_bias, Needs::qkv_bias, "self_attn.k_proj.bias"},
    WeightName{Weight::v_bias, Needs::qkv_bias, "self_attn.v_proj.bias"},
    WeightName{Weight::o_bias, Needs::o_bias, "self_attn.o_proj.bias"},
    WeightName{Weight::q_norm, Needs::qk_norm, "self_attn.q_norm.weight"},
    WeightName{Weight::k_norm, Needs::qk_norm, "self_attn.k_norm.weight"},
    WeightName{Weight::mlp_norm, Needs::nothing, "post_attention_layernorm.weight"},
    WeightName{Weight::gate, Needs::nothing, "mlp.gate_proj.weight"},
    WeightName{Weight::up, Needs::nothing, "mlp.up_proj.weight"},
    WeightName{Weight::down, Needs::nothing, "mlp.down_proj.weight"},
    WeightName{Weight::gate_bias, Needs::mlp_bias, "mlp.gate_proj.bias"},
    WeightName{Weight::up_bias, Needs::mlp_bias, "mlp.up_proj.bias"},
    WeightName{Weight::down_bias, Needs::mlp_bias, "mlp.down_proj.bias"},
};

constexpr std::array kFamilies{
    //     model_type names           qkv_bias            o_bias              mlp_bias            qk_norm
    //     windows head_dim
    Family{"llama", kStandardNames, Switch::configured, Switch::configured, Switch::configured, false,
           WindowRule::none, 0},
    Family{"mistral", kStandardNames, Switch::off, Switch::off, Switch::off, false, WindowRule::all_layers,
           0},
    // Qwen2 has biases on Q, K and V though no key of its configuration says so.
    Family{"qwen2", kStandardNames, Switch::on, Switch::off, Switch::off, false, WindowRule::switched, 0},
    Family{"qwen3", kStandardNames, Switch::configured, Switch::configured, Switch::off, true,
           WindowRule::switched, 128},
};

}  // namespace

WeightShape expected_shape(Weight weight, const ModelShape& shape) {
  const std::int64_t hidden = shape.hidden, intermediate = shape.intermediate, head_dim = shape.head_dim;
  const std::int64_t q = shape.heads * head_dim, kv = shape.kv_heads * head_dim;
  switch (weight) {
    case Weight::embedding:
    case Weight::head:
      return {shape.vocab, hidden};
    case Weight::final_norm:
    case Weight::attention_norm:
    case Weight::mlp_norm:
    case Weight::o_bias:
    case Weight::down_bias:
      return {hidden, 0};
    case Weight::q:
      return {q, hidden};
    case Weight::k:
    case Weight::v:
      return {kv, hidden};
    case Weight::o:
      return {hidden, q};
    case Weight::q_bias:
      return {q, 0};
    case Weight::k_bias:
    case Weight::v_bias:
      return {kv, 0};
    case Weight::q_norm:
    case Weight::k_norm:
      return {head_dim, 0};
    case Weight::gate:
    case Weight::up:
      return {intermediate, hidden};
    case Weight::down:
      return {hidden, intermediate};
    case Weight::gate_bias:
    case Weight::up_bias:
      return {intermediate, 0};
  }
  NS_CHECK(false, "weight {} has no shape", static_cast<int>(weight));
}

bool is_needed(Needs needs, const ModelConfig& config) {
  switch (needs) {
    case Needs::nothing:
      return true;
    case Needs::own_head:
      return !config.shape.tied_embeddings;
    case Needs::qkv_bias:
      return config.qkv_bias;
    case Needs::o_bias:
      return config.o_bias;
    case Needs::mlp_bias:
      return config.mlp_bias;
    case Needs::qk_norm:
      return config.qk_norm;
  }
  return false;
}

const Family* find_family(std::string_view model_type) {
  for (const Family& family : kFamilies)
    if (family.model_type == model_type) return &family;
  return nullptr;
}

std::string known_families() {
  std::string names;
  for (const Family& family : kFamilies)
    names += (names.empty() ? "" : ", ") + std::string(family.model_type);
  return names;
}

}  // namespace nightshift::model
