// SPDX-License-Identifier: Apache-2.0
// The RoPE part of config.json in its two schemas, with every alias that published checkpoints use.
#include <algorithm>
#include <array>
#include <string_view>

#include "core/check.h"
#include "model/files/json_object.h"
#include "model/files/rope.h"

namespace nightshift::model {

namespace {

constexpr double kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e6;
constexpr double kMaxPositions = 1 << 28;

// Keys that are understood or that mean nothing for text; any other would change the arithmetic unseen.
constexpr std::array kKnownKeys{"type",
                                "rope_type",
                                "rope_theta",
                                "factor",
                                "original_max_position_embeddings",
                                "low_freq_factor",
                                "high_freq_factor",
                                "beta_fast",
                                "beta_slow",
                                "mscale",
                                "mscale_all_dim",
                                "attention_factor",
                                "truncate",
                                "partial_rotary_factor",
                                "mrope_section",
                                "mrope_interleaved",
                                "finetuned"};

std::string canonical(const std::string& kind) {
  return kind == "mrope" ? "default" : kind;
}

RopeKind kind_of(const JsonObject& rope) {
  const bool both = rope.has("type") && rope.has("rope_type");
  if (both && canonical(rope.text("type", "")) != canonical(rope.text("rope_type", "")))
    rope.refuse("type", "contradicts rope_type", "keep one of the two");
  const std::string key = rope.has("rope_type") ? "rope_type" : "type";
  const std::string kind = canonical(rope.text(key, "default"));
  if (kind == "default") return RopeKind::standard;
  if (kind == "linear") return RopeKind::linear;
  if (kind == "dynamic") return RopeKind::dynamic;
  if (kind == "yarn") return RopeKind::yarn;
  if (kind == "llama3") return RopeKind::llama3;
  rope.refuse(key, "is \"" + kind + "\", which is not supported",
              "supported: default, linear, dynamic, yarn, llama3; choose another model");
}

void refuse_unknown_keys(const JsonObject& rope) {
  for (const std::string& key : rope.keys())
    if (std::find(kKnownKeys.begin(), kKnownKeys.end(), std::string_view(key)) == kKnownKeys.end())
      rope.refuse(key, "is not a known RoPE setting",
                  "choose another model, or remove the key if it is inert");
  if (rope.has("partial_rotary_factor") && rope.number("partial_rotary_factor", 0, 1) != 1.0)
    rope.refuse("partial_rotary_factor", "below 1 is not supported", "choose another model");
}

// rope_parameters may hold one object per layer type. One table serves all layers here, so they must agree.
JsonObject unnest(const JsonObject& parameters) {
  const auto keys = parameters.keys();
  const bool nested = !keys.empty() && std::all_of(keys.begin(), keys.end(), [&](const auto& key) {
    return parameters.is_object(key);
  });
  if (!nested) return parameters;
  const JsonObject first = parameters.object(keys.front());
  for (const std::string& key : keys)
    if (!(parameters.object(key) == first))
      parameters.refuse(key, "differs from \"" + keys.front() + "\": a RoPE per layer type is not supported",
                        "choose another model");
  return first;
}

// theta may stand at the top, inside, or both if equal.
double theta_of(const JsonObject& json, const JsonObject* rope) {
  const bool outside = json.has("rope_theta"), inside = rope != nullptr && rope->has("rope_theta");
  const double outer = json.number("rope_theta", 1, kMaxTheta, 10000.0);
  if (!inside) return outer;
  const double inner = rope->number("rope_theta", 1, kMaxTheta);
  if (outside && inner != outer)
    rope->refuse("rope_theta", "contradicts the top-level rope_theta", "keep one of the two");
  return inner;
}

double original_positions(const JsonObject& json, const JsonObject& rope, RopeKind kind, int max_positions) {
  const char* key = "original_max_position_embeddings";
  if (kind == RopeKind::dynamic || kind == RopeKind::linear) return max_positions;
  if (json.has(key) && rope.has(key) &&
      json.number(key, 1, kMaxPositions) != rope.number(key, 1, kMaxPositions))
    rope.refuse(key, "contradicts the one at the top level", "keep one of the two");
  return json.has(key) ? json.number(key, 1, kMaxPositions)
                       : rope.number(key, 1, kMaxPositions, max_positions);
}

void read_stretch(const JsonObject& json, const JsonObject& rope, int max_positions, RopeConfig& out) {
  out.original_positions = original_positions(json, rope, out.kind, max_positions);
  const bool yarn = out.kind == RopeKind::yarn;
  out.factor =
      yarn ? rope.number("factor", 1, kMaxFactor, std::max(1.0, max_positions / out.original_positions))
           : rope.number("factor", 1, kMaxFactor);
  if (out.kind == RopeKind::llama3) {
    out.low_freq_factor = rope.number("low_freq_factor", 1e-6, kMaxFactor);
    out.high_freq_factor = rope.number("high_freq_factor", 1e-6, kMaxFactor);
    if (out.high_freq_factor <= out.low_freq_factor)
      rope.refuse("high_freq_factor", "must exceed low_freq_factor");
  }
  if (!yarn) return;
  out.beta_fast = rope.number("beta_fast", 1e-6, kMaxFactor, 32.0);
  out.beta_slow = rope.number("beta_slow", 1e-6, kMaxFactor, 1.0);
  if (out.beta_fast < out.beta_slow) rope.refuse("beta_fast", "must not be below beta_slow");
  out.mscale = rope.number("mscale", 0, kMaxFactor, 0.0);
  out.mscale_all_dim = rope.number("mscale_all_dim", 0, kMaxFactor, 0.0);
  out.attention_factor = rope.number("attention_factor", 0, kMaxFactor, 0.0);
  out.truncate = rope.boolean("truncate", true);
  if (out.theta <= 1.0) rope.refuse("rope_theta", "must exceed 1 for yarn");
}

RopeConfig read_section(const JsonObject& json, std::string_view key, int max_positions) {
  const JsonObject rope = unnest(json.object(key));
  refuse_unknown_keys(rope);
  RopeConfig out;
  out.kind = kind_of(rope);
  out.theta = theta_of(json, &rope);
  if (out.kind != RopeKind::standard) read_stretch(json, rope, max_positions, out);
  return out;
}

}  // namespace

RopeConfig read_rope(const JsonObject& json, int max_positions) {
  const bool has_new = json.has("rope_parameters"), has_old = json.has("rope_scaling");
  if (!has_new && !has_old) return {.theta = theta_of(json, nullptr)};
  const RopeConfig rope = read_section(json, has_new ? "rope_parameters" : "rope_scaling", max_positions);
  if (has_new && has_old) {
    RopeConfig old = read_section(json, "rope_scaling", max_positions);
    if (!json.object("rope_scaling").has("rope_theta") && !json.has("rope_theta")) old.theta = rope.theta;
    if (!(old == rope)) json.refuse("rope_scaling", "contradicts rope_parameters", "keep one of the two");
  }
  return rope;
}

}  // namespace nightshift::model
