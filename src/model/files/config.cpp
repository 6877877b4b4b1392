// SPDX-License-Identifier: Apache-2.0
#include "model/files/config.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "core/check.h"
#include "model/files/families.h"
#include "model/files/json_object.h"

namespace nightshift::model {

namespace {

constexpr double kHuge = 1e12;
constexpr std::int64_t kMaxDim = 1 << 20;
constexpr std::int64_t kMaxPositions = 1 << 28;
const std::string kRemedyOther = "convert the model to plain bf16 weights, or choose another model";

// Multimodal wrappers keep the language model one level down; its own keys count, not the wrapper's.
JsonObject text_section(const JsonObject& top) {
  for (const char* key : {"text_config", "llm_config", "language_config"})
    if (top.is_object(key)) return top.object(key);
  if (top.is_object("thinker_config") && top.object("thinker_config").is_object("text_config"))
    return top.object("thinker_config").object("text_config");
  return top;
}

void refuse_what_changes_the_arithmetic(const JsonObject& json) {
  if (json.has("quantization_config")) {
    const auto quantization = json.object("quantization_config");
    json.refuse("quantization_config",
                "names quantized weights (" + quantization.text("quant_method", "no method") + ")",
                "quantized weights are not supported: use the bf16 version of this model");
  }
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size"})
    if (json.has(key) && json.integer(key, 0, kMaxDim) > 0)
      json.refuse(key, "makes this a mixture-of-experts model, which is not supported", kRemedyOther);
  for (const char* key :
       {"block_configs", "attn_logit_softcapping", "final_logit_softcapping", "no_rope_layers"})
    if (json.has(key))
      json.refuse(key, "changes the architecture in a way that is not supported", kRemedyOther);
  if (json.has("partial_rotary_factor") && json.number("partial_rotary_factor", 0, 1) != 1.0)
    json.refuse("partial_rotary_factor", "below 1 is not supported", kRemedyOther);
}

void check_activation(const JsonObject& json) {
  for (const char* key : {"hidden_act", "hidden_activation"}) {
    const std::string name = json.text(key, "silu");
    if (name != "silu" && name != "swish")
      json.refuse(key, "is \"" + name + "\", which is not supported (silu is)", kRemedyOther);
  }
}

ModelShape read_shape(const JsonObject& json, const Family& family) {
  ModelShape shape;
  const auto positive = [&](const char* key) { return static_cast<int>(json.integer(key, 1, kMaxDim)); };
  shape.layers = static_cast<int>(json.integer("num_hidden_layers", 1, 4096));
  shape.hidden = positive("hidden_size");
  shape.intermediate = positive("intermediate_size");
  shape.heads = static_cast<int>(json.integer("num_attention_heads", 1, 4096));
  shape.kv_heads = static_cast<int>(json.integer("num_key_value_heads", 1, 4096, shape.heads));
  shape.vocab = static_cast<int>(json.integer("vocab_size", 1, 1 << 24));
  const int derived = family.default_head_dim != 0 ? family.default_head_dim : shape.hidden / shape.heads;
  shape.head_dim = static_cast<int>(json.integer("head_dim", 2, 1024, derived));
  if (shape.heads % shape.kv_heads != 0)
    json.refuse("num_key_value_heads", fmt::format("is {}, which does not divide num_attention_heads = {}",
                                                   shape.kv_heads, shape.heads));
  if (shape.head_dim < 2 || shape.head_dim % 2 != 0)
    json.refuse("head_dim", fmt::format("is {}; RoPE needs an even one", shape.head_dim));
  return shape;
}

bool switched_on(Switch setting, const JsonObject& json, const char* key) {
  return setting == Switch::on || (setting == Switch::configured && json.boolean(key, false));
}

// `layer_types` says it per layer and wins over every other key.
std::vector<int> windows_by_layer_types(const JsonObject& json, const Family& family, int layers) {
  const auto types = json.texts("layer_types", 4096);
  if (types.size() != static_cast<std::size_t>(layers))
    json.refuse("layer_types", fmt::format("has {} entries for {} layers", types.size(), layers));
  std::vector<int> windows;
  for (const std::string& type : types) {
    if (type != "full_attention" && (type != "sliding_attention" || family.windows == WindowRule::none))
      json.refuse("layer_types",
                  "holds \"" + type + "\", which is not supported for " + std::string(family.model_type),
                  kRemedyOther);
    const bool sliding = type == "sliding_attention";
    windows.push_back(sliding ? static_cast<int>(json.integer("sliding_window", 1, kMaxPositions)) : 0);
  }
  return windows;
}

std::vector<int> read_windows(const JsonObject& json, const Family& family, int layers) {
  if (json.has("layer_types")) return windows_by_layer_types(json, family, layers);
  int first = 0, window = 0;
  // Hugging Face defaults: an absent key means 4096, only an explicit null means none.
  const auto sliding_window = [&] {
    if (json.contains("sliding_window") && !json.has("sliding_window")) return 0;
    return static_cast<int>(json.integer("sliding_window", 1, kMaxPositions, 4096));
  };
  if (family.windows == WindowRule::all_layers) window = sliding_window();
  if (family.windows == WindowRule::switched && json.boolean("use_sliding_window", false)) {
    window = sliding_window();
    first = static_cast<int>(json.integer("max_window_layers", 0, 4096, 28));
  }
  std::vector<int> windows(static_cast<std::size_t>(layers), 0);
  for (int layer = first; layer < layers; ++layer) windows[static_cast<std::size_t>(layer)] = window;
  return windows;
}

DType read_dtype(const JsonObject& json) {
  if (json.has("dtype") && json.has("torch_dtype") && json.text("dtype", "") != json.text("torch_dtype", ""))
    json.refuse("dtype", "contradicts torch_dtype", "keep one of the two");
  const std::string key = json.has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = json.text(key, "bfloat16");
  if (name == "bfloat16" || name == "auto") return DType::bf16;
  if (name == "float16" || name == "half") return DType::f16;
  if (name == "float32" || name == "float") return DType::f32;
  json.refuse(key, "is \"" + name + "\"; bfloat16, float16 and float32 are supported", kRemedyOther);
}

void add_stop_ids(const JsonObject& json, int vocab, std::set<TokenId>& ids) {
  if (!json.has("eos_token_id")) return;
  for (const std::int64_t id : json.integers("eos_token_id", 1024)) {
    if (id < -1 || id > std::numeric_limits<TokenId>::max())
      json.refuse("eos_token_id", fmt::format("holds {}", id));
    if (id >= 0 && id < vocab) ids.insert(static_cast<TokenId>(id));  // what cannot be sampled cannot stop
  }
}

GenerationHints read_hints(const JsonObject& json) {
  GenerationHints hints;
  if (json.has("temperature")) hints.temperature = json.number("temperature", 0, kHuge);
  if (json.has("top_p")) hints.top_p = json.number("top_p", 0, 1);
  if (json.has("top_k")) hints.top_k = json.integer("top_k", -1, kMaxPositions);
  if (json.has("repetition_penalty")) hints.repetition_penalty = json.number("repetition_penalty", 0, kHuge);
  return hints;
}

const Family& choose_family(const JsonObject& top, const JsonObject& text) {
  const std::string type = text.text("model_type", top.text("model_type", ""));
  if (const Family* family = find_family(type)) return *family;
  const JsonObject& at = text.has("model_type") ? text : top;
  at.refuse("model_type", type.empty() ? "is missing" : "is \"" + type + "\", which is not supported",
            "supported: " + known_families());
}

bool tied_embeddings(const JsonObject& top, const JsonObject& text) {
  const JsonObject& at = text.has("tie_word_embeddings") ? text : top;
  return at.boolean("tie_word_embeddings", false);
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& directory) {
  const JsonObject top = JsonObject::read(directory / "config.json");
  const JsonObject text = text_section(top);
  for (const JsonObject& json : {top, text}) refuse_what_changes_the_arithmetic(json);
  if (std::filesystem::exists(directory / "hf_quant_config.json"))
    throw BadInput((directory / "hf_quant_config.json").string() + ": the weights are quantized",
                   "quantized weights are not supported: use the bf16 version of this model");
  const Family& family = choose_family(top, text);
  check_activation(text);

  ModelConfig config;
  config.model_type = family.model_type;
  config.shape = read_shape(text, family);
  config.shape.tied_embeddings = tied_embeddings(top, text);
  config.max_positions = static_cast<int>(text.integer("max_position_embeddings", 1, kMaxPositions));
  config.rms_norm_eps = text.number("rms_norm_eps", 0, 1, 1e-6);
  config.qkv_bias = switched_on(family.qkv_bias, text, "attention_bias");
  config.o_bias = switched_on(family.o_bias, text, "attention_bias");
  config.mlp_bias = switched_on(family.mlp_bias, text, "mlp_bias");
  config.qk_norm = family.qk_norm;
  config.windows = read_windows(text, family, config.shape.layers);
  config.rope = read_rope(text, config.max_positions);
  config.dtype = read_dtype(text.has("dtype") || text.has("torch_dtype") ? text : top);

  std::set<TokenId> stops;
  add_stop_ids(top, config.shape.vocab, stops);
  add_stop_ids(text, config.shape.vocab, stops);
  if (std::filesystem::exists(directory / "generation_config.json")) {
    const JsonObject generation = JsonObject::read(directory / "generation_config.json");
    add_stop_ids(generation, config.shape.vocab, stops);
    config.hints = read_hints(generation);
  }
  config.stop_ids.assign(stops.begin(), stops.end());
  return config;
}

std::int64_t longest_context(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  const double stretched = rope.kind == RopeKind::yarn ? rope.factor * rope.original_positions
                           : rope.kind == RopeKind::linear || rope.kind == RopeKind::dynamic
                               ? rope.factor * config.max_positions
                               : 0.0;
  return std::max<std::int64_t>(config.max_positions, static_cast<std::int64_t>(std::min(stretched, kHuge)));
}

}  // namespace nightshift::model
