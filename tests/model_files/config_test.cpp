// SPDX-License-Identifier: Apache-2.0
#include "model/files/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/check.h"
#include "model_files/model_dir.h"

namespace nightshift::model {
namespace {

using nlohmann::json;
using test::message_of;
using test::TempDir;

json llama() {
  return {{"model_type", "llama"},    {"hidden_size", 64},
          {"intermediate_size", 96},  {"num_hidden_layers", 4},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 100},        {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},     {"tie_word_embeddings", false},
          {"torch_dtype", "bfloat16"}};
}

json with(json base, const json& changes) {
  for (const auto& [key, value] : changes.items()) base[key] = value;
  return base;
}

ModelConfig read(const json& config, const json& generation = nullptr) {
  TempDir directory;
  directory.write("config.json", config.dump());
  if (!generation.is_null()) directory.write("generation_config.json", generation.dump());
  return read_model_config(directory.path());
}

// Refused as bad input, naming the file and the key.
void expect_refused(const json& config, const std::string& key, const std::string& why = "") {
  const std::string message = message_of<BadInput>([&] { read(config); });
  EXPECT_NE(message.find("config.json"), std::string::npos) << message;
  EXPECT_NE(message.find(key), std::string::npos) << message;
  EXPECT_NE(message.find(why), std::string::npos) << message;
}

TEST(Config, Llama) {
  const ModelConfig c = read(llama());
  EXPECT_EQ(c.shape.layers, 4);
  EXPECT_EQ(c.shape.head_dim, 16);
  EXPECT_EQ(c.shape.kv_heads, 2);
  EXPECT_FALSE(c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm);
  EXPECT_EQ(c.rope.theta, 10000.0);
  EXPECT_EQ(c.windows, std::vector<int>(4, 0));
  const ModelConfig biased = read(with(llama(), {{"attention_bias", true}, {"mlp_bias", true}}));
  EXPECT_TRUE(biased.qkv_bias && biased.o_bias && biased.mlp_bias);
}

TEST(Config, Defaults) {
  json config = llama();
  config.erase("num_key_value_heads");
  EXPECT_EQ(read(config).shape.kv_heads, 4);
  EXPECT_EQ(read(with(llama(), {{"head_dim", nullptr}})).shape.head_dim, 16);
  EXPECT_EQ(read(with(llama(), {{"head_dim", 32}})).shape.head_dim, 32);
  EXPECT_EQ(read(with(llama(), {{"model_type", "qwen3"}})).shape.head_dim, 128);
}

TEST(Config, Families) {
  const ModelConfig qwen2 = read(with(llama(), {{"model_type", "qwen2"}}));
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.o_bias);
  const ModelConfig qwen3 = read(with(llama(), {{"model_type", "qwen3"}}));
  EXPECT_TRUE(qwen3.qk_norm && !qwen3.qkv_bias);
  expect_refused(with(llama(), {{"model_type", "mamba"}}), "model_type",
                 "supported: llama, mistral, qwen2, qwen3");
  json config = llama();
  config.erase("model_type");
  expect_refused(config, "model_type", "missing");
}

TEST(Config, SlidingWindows) {
  const json mistral = with(llama(), {{"model_type", "mistral"}});
  EXPECT_EQ(read(with(mistral, {{"sliding_window", nullptr}})).windows, std::vector<int>(4, 0));
  EXPECT_EQ(read(with(mistral, {{"sliding_window", 100}})).windows, std::vector<int>(4, 100));
  EXPECT_EQ(read(mistral).windows, std::vector<int>(4, 4096));
  const json qwen =
      with(llama(), {{"model_type", "qwen2"}, {"sliding_window", 50}, {"max_window_layers", 3}});
  EXPECT_EQ(read(qwen).windows, std::vector<int>(4, 0));
  EXPECT_EQ(read(with(qwen, {{"use_sliding_window", true}})).windows, (std::vector{0, 0, 0, 50}));
  const json types = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  EXPECT_EQ(read(with(qwen, {{"layer_types", types}})).windows, (std::vector{50, 0, 50, 0}));
  expect_refused(with(llama(), {{"layer_types", types}, {"sliding_window", 5}}), "layer_types");
  expect_refused(with(qwen, {{"layer_types", {"full_attention"}}}), "layer_types", "1 entries for 4 layers");
  expect_refused(with(qwen, {{"layer_types", json::array({"linear_attention", "full_attention",
                                                          "full_attention", "full_attention"})}}),
                 "layer_types", "linear_attention");
}

TEST(Config, RopeInBothSchemas) {
  const json scaling = {{"type", "linear"}, {"factor", 4}};
  const RopeConfig old = read(with(llama(), {{"rope_theta", 5e5}, {"rope_scaling", scaling}})).rope;
  EXPECT_EQ(old.kind, RopeKind::linear);
  EXPECT_EQ(old.theta, 5e5);
  EXPECT_EQ(old.factor, 4.0);
  const json parameters = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5e5}};
  EXPECT_EQ(read(with(llama(), {{"rope_parameters", parameters}})).rope, old);
  EXPECT_EQ(read(with(llama(), {{"rope_parameters", parameters}, {"rope_scaling", scaling}})).rope, old)
      << "same thing twice";
  EXPECT_EQ(read(with(llama(), {{"rope_parameters", parameters}, {"rope_theta", 5e5}})).rope, old);
  const json nested = {{"full_attention", parameters}, {"sliding_attention", parameters}};
  EXPECT_EQ(read(with(llama(), {{"rope_parameters", nested}})).rope, old);
  EXPECT_EQ(read(with(llama(), {{"rope_scaling", {{"type", "mrope"}, {"mrope_section", {1, 2}}}}})).rope.kind,
            RopeKind::standard);
}

TEST(Config, RopeContradictionsAndUnknowns) {
  const json parameters = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5e5}};
  expect_refused(with(llama(), {{"rope_parameters", parameters}, {"rope_theta", 1e4}}), "rope_theta",
                 "contradicts");
  expect_refused(
      with(llama(), {{"rope_parameters", parameters}, {"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}),
      "rope_scaling", "contradicts");
  const json other = with(parameters, {{"rope_theta", 1e4}});
  expect_refused(
      with(llama(), {{"rope_parameters", {{"full_attention", parameters}, {"sliding_attention", other}}}}),
      "sliding_attention", "differs");
  expect_refused(
      with(llama(), {{"rope_scaling", {{"type", "yarn"}, {"rope_type", "linear"}, {"factor", 2}}}}), "type");
  expect_refused(with(llama(), {{"rope_scaling", {{"rope_type", "longrope"}}}}), "rope_scaling.rope_type",
                 "longrope");
  expect_refused(with(llama(), {{"rope_scaling", {{"rope_type", "linear"}}}}), "rope_scaling.factor",
                 "missing");
  expect_refused(with(llama(), {{"rope_scaling", {{"rope_type", "linear"}, {"factor", -1}}}}),
                 "rope_scaling.factor");
  expect_refused(with(llama(), {{"rope_scaling", {{"rope_type", "default"}, {"llama_4_scaling_beta", 0.1}}}}),
                 "llama_4_scaling_beta");
  expect_refused(with(llama(), {{"partial_rotary_factor", 0.5}}), "partial_rotary_factor");
  expect_refused(
      with(llama(),
           {{"rope_scaling",
             {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}}}),
      "high_freq_factor");
}

TEST(Config, LongestContext) {
  EXPECT_EQ(longest_context(read(llama())), 512);
  EXPECT_EQ(longest_context(read(with(llama(), {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}}))),
            1024);
  const json yarn = {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 512}};
  EXPECT_EQ(longest_context(read(with(llama(), {{"rope_scaling", yarn}}))), 2048);
}

TEST(Config, StopIdsAreTheUnionOfBothFiles) {
  const json config = with(llama(), {{"eos_token_id", 7}});
  EXPECT_EQ(read(config, {{"eos_token_id", {9, 7, 3}}, {"temperature", 0.6}}).stop_ids,
            (std::vector<TokenId>{3, 7, 9}));
  EXPECT_EQ(read(config).stop_ids, std::vector<TokenId>{7});
  EXPECT_EQ(read(with(llama(), {{"eos_token_id", nullptr}})).stop_ids, std::vector<TokenId>{});
  EXPECT_EQ(read(with(llama(), {{"eos_token_id", {5, 100}}})).stop_ids, std::vector<TokenId>{5})
      << "100 cannot be sampled";
  expect_refused(with(llama(), {{"eos_token_id", "end"}}), "eos_token_id");
  EXPECT_EQ(read(config, {{"temperature", 0.6}}).hints.temperature, 0.6);
}

TEST(Config, NestedTextConfig) {
  const json wrapper = {
      {"model_type", "mistral3"},
      {"text_config", with(llama(), {{"model_type", "mistral"}, {"sliding_window", nullptr}})},
      {"tie_word_embeddings", false},
      {"vision_config", {{"hidden_size", 1}}}};
  EXPECT_EQ(read(wrapper).model_type, "mistral");
  json tied = wrapper;
  tied["tie_word_embeddings"] = true;
  tied["text_config"].erase("tie_word_embeddings");
  EXPECT_TRUE(read(tied).shape.tied_embeddings);
  json bad = wrapper;
  bad["text_config"]["hidden_size"] = "64";
  expect_refused(bad, "text_config.hidden_size");
}

TEST(Config, RefusesWhatWouldComputeSomethingElse) {
  expect_refused(with(llama(), {{"quantization_config", {{"quant_method", "awq"}}}}), "quantization_config",
                 "awq");
  expect_refused(with(llama(), {{"num_local_experts", 8}}), "num_local_experts");
  expect_refused(with(llama(), {{"num_experts", 128}}), "num_experts");
  expect_refused(with(llama(), {{"hidden_act", "gelu"}}), "hidden_act", "gelu");
  expect_refused(with(llama(), {{"block_configs", json::array()}}), "block_configs");
  expect_refused(with(llama(), {{"dtype", "float32"}}), "dtype", "contradicts");
  expect_refused(with(llama(), {{"torch_dtype", "int8"}}), "torch_dtype", "int8");
}

TEST(Config, RefusesNonsenseByName) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "vocab_size", "max_position_embeddings"}) {
    json missing = llama();
    missing.erase(key);
    expect_refused(missing, key, "missing");
    for (const json& value :
         std::vector<json>{0, -5, 1e30, 2.5, "x", json::array(), true, 18446744073709551615ull})
      expect_refused(with(llama(), {{key, value}}), key);
  }
  expect_refused(with(llama(), {{"num_key_value_heads", 3}}), "num_key_value_heads");
  expect_refused(with(llama(), {{"head_dim", 15}}), "head_dim");
  expect_refused(with(llama(), {{"rms_norm_eps", "small"}}), "rms_norm_eps");
  expect_refused(with(llama(), {{"attention_bias", 1}}), "attention_bias");
}

TEST(Config, WholeNumbersMayBeWrittenAsFloats) {
  EXPECT_EQ(read(with(llama(), {{"hidden_size", 64.0}})).shape.hidden, 64);
}

// Damaged text is read or refused, nothing else.
TEST(Config, SurvivesDamage) {
  const json rope = {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 128}};
  const std::string good = with(llama(), {{"rope_scaling", rope}, {"eos_token_id", {2, 3}}}).dump();
  TempDir directory;
  std::mt19937 random(3);
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string bad = good;
    for (auto flips = 1 + random() % 3; flips > 0; --flips)
      bad[random() % bad.size()] = "0123456789-.eE\"{}[],:xyz"[random() % 24];
    directory.write("config.json", bad);
    try {
      const ModelConfig c = read_model_config(directory.path());
      EXPECT_EQ(c.shape.heads % c.shape.kv_heads, 0);
      for (const float f : rope_frequencies(c.rope, c.shape.head_dim, 1000).inverse)
        EXPECT_TRUE(std::isfinite(f));
    } catch (const BadInput& e) {
      EXPECT_NE(std::string(e.what()).find("config.json"), std::string::npos) << e.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

TEST(Config, BrokenFiles) {
  TempDir directory;
  EXPECT_NE(message_of<BadInput>([&] { read_model_config(directory.path()); }).find("config.json"),
            std::string::npos);
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("{\"a\": \xff}"),
        std::string(100000, '['), std::string("null")}) {
    directory.write("config.json", text);
    EXPECT_NE(message_of<BadInput>([&] { read_model_config(directory.path()); }).find("config.json"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace nightshift::model
