// SPDX-License-Identifier: Apache-2.0
#include "model/files/model_files.h"

#include <gtest/gtest.h>

#include <functional>

#include "core/check.h"
#include "model_files/model_dir.h"

namespace nightshift::model {
namespace {

using nlohmann::json;
using test::message_of;
using test::TempDir;
using test::TestTensor;

json small(const std::string& type) {
  return {{"model_type", type},
          {"hidden_size", 8},
          {"intermediate_size", 12},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 1},
          {"head_dim", 4},
          {"vocab_size", 10},
          {"max_position_embeddings", 16},
          {"tie_word_embeddings", false}};
}

// The tensors of the Llama family, written out rather than taken from the table under test.
std::map<std::string, std::vector<std::int64_t>> llama_tensors() {
  std::map<std::string, std::vector<std::int64_t>> tensors{
      {"model.embed_tokens.weight", {10, 8}}, {"model.norm.weight", {8}}, {"lm_head.weight", {10, 8}}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    tensors[layer + "input_layernorm.weight"] = {8};
    tensors[layer + "post_attention_layernorm.weight"] = {8};
    tensors[layer + "self_attn.q_proj.weight"] = {8, 8};
    tensors[layer + "self_attn.k_proj.weight"] = {4, 8};
    tensors[layer + "self_attn.v_proj.weight"] = {4, 8};
    tensors[layer + "self_attn.o_proj.weight"] = {8, 8};
    tensors[layer + "mlp.gate_proj.weight"] = {12, 8};
    tensors[layer + "mlp.up_proj.weight"] = {12, 8};
    tensors[layer + "mlp.down_proj.weight"] = {8, 12};
  }
  return tensors;
}

class Weights : public testing::Test {
 protected:
  void write(const json& config, const std::map<std::string, std::vector<std::int64_t>>& tensors) {
    directory_.write("config.json", config.dump());
    std::vector<TestTensor> list;
    for (const auto& [name, shape] : tensors) {
      std::size_t bytes = 2;
      for (const std::int64_t extent : shape) bytes *= static_cast<std::size_t>(extent);
      list.push_back({name, "BF16", shape, std::string(bytes, static_cast<char>(list.size()))});
    }
    directory_.write("model.safetensors", test::safetensors(list));
  }
  ModelFiles open() const { return open_model_files(directory_.path()); }
  std::string refusal() const {
    return message_of<BadInput>([&] { open(); });
  }

  TempDir directory_;
  json config_ = small("llama");
  std::map<std::string, std::vector<std::int64_t>> tensors_ = llama_tensors();
};

TEST_F(Weights, EveryTensorFindsItsRole) {
  write(config_, tensors_);
  const ModelFiles files = open();
  EXPECT_EQ(files.weights.size(), tensors_.size());
  for (std::size_t i = 1; i < files.weights.size(); ++i)
    EXPECT_LT(files.weights[i - 1].tensor->offset, files.weights[i].tensor->offset) << "in reading order";
  EXPECT_EQ(parameter_count(files.weights), 80 + 80 + 8 + 2 * (8 + 8 + 64 + 32 + 32 + 64 + 3 * 96));
}

TEST_F(Weights, MissingAndMisshapenAreNamed) {
  auto tensors = tensors_;
  tensors.erase("model.layers.1.self_attn.k_proj.weight");
  write(config_, tensors);
  EXPECT_NE(refusal().find("missing tensors: model.layers.1.self_attn.k_proj.weight"), std::string::npos);
  tensors = tensors_;
  tensors["model.layers.0.mlp.up_proj.weight"] = {8, 12};
  write(config_, tensors);
  EXPECT_NE(
      refusal().find("\"model.layers.0.mlp.up_proj.weight\" has shape [8, 12], config.json asks for [12, 8]"),
      std::string::npos);
  tensors = tensors_;
  tensors.erase("model.embed_tokens.weight");
  write(config_, tensors);
  EXPECT_NE(refusal().find("embed_tokens"), std::string::npos);
}

TEST_F(Weights, UnexpectedTensorsAreRefused) {
  tensors_["model.layers.0.self_attn.q_proj.bias"] = {8};
  write(config_, tensors_);
  EXPECT_NE(refusal().find("model.layers.0.self_attn.q_proj.bias"), std::string::npos);
  EXPECT_NE(refusal().find("llama"), std::string::npos);
}

TEST_F(Weights, KnownLeftoversAreIgnored) {
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {2};
  tensors_["model.layers.1.self_attn.rotary_emb.cos_cached"] = {2};
  tensors_["model.layers.2.mlp.up_proj.weight"] = {12, 8};  // past num_hidden_layers
  tensors_["mtp.head.weight"] = {3};
  write(config_, tensors_);
  EXPECT_EQ(open().weights.size(), llama_tensors().size());
}

TEST_F(Weights, TiedHeadMayBeThereOrNot) {
  config_["tie_word_embeddings"] = true;
  write(config_, tensors_);
  EXPECT_EQ(open().weights.size(), tensors_.size() - 1);
  tensors_.erase("lm_head.weight");
  write(config_, tensors_);
  EXPECT_EQ(open().weights.size(), tensors_.size());
  config_["tie_word_embeddings"] = false;
  write(config_, tensors_);
  EXPECT_NE(refusal().find("tie_word_embeddings"), std::string::npos);
}

TEST_F(Weights, FamiliesDifferAsTheTableSays) {
  config_["model_type"] = "qwen2";
  write(config_, tensors_);
  EXPECT_NE(refusal().find("q_proj.bias"), std::string::npos);
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    tensors_[layer + "self_attn.q_proj.bias"] = {8};
    tensors_[layer + "self_attn.k_proj.bias"] = tensors_[layer + "self_attn.v_proj.bias"] = {4};
  }
  write(config_, tensors_);
  EXPECT_EQ(open().weights.size(), tensors_.size());

  config_["model_type"] = "qwen3";
  tensors_ = llama_tensors();
  for (const std::string layer : {"model.layers.0.", "model.layers.1."})
    tensors_[layer + "self_attn.q_norm.weight"] = tensors_[layer + "self_attn.k_norm.weight"] = {4};
  write(config_, tensors_);
  EXPECT_EQ(open().weights.size(), tensors_.size());
}

TEST_F(Weights, WrappersHideTheirOtherHalf) {
  const json wrapper = {{"model_type", "llava"}, {"text_config", config_}, {"vision_config", json::object()}};
  using Rename = std::function<std::string(const std::string&)>;
  const Rename old_style = [](const std::string& name) { return "language_model." + name; };
  const Rename new_style = [](const std::string& name) {
    return name.starts_with("model.") ? "model.language_model." + name.substr(6) : name;
  };
  for (const Rename& rename : {old_style, new_style}) {
    std::map<std::string, std::vector<std::int64_t>> tensors{{"vision_tower.x.weight", {3}},
                                                             {"model.visual.y.weight", {3}}};
    for (const auto& [name, shape] : tensors_) tensors[rename(name)] = shape;
    write(wrapper, tensors);
    EXPECT_EQ(open().weights.size(), tensors_.size());
  }
  tensors_["vision_tower.x.weight"] = {3};  // in a plain model nobody may hide
  write(config_, tensors_);
  EXPECT_NE(refusal().find("vision_tower.x.weight"), std::string::npos);
}

TEST_F(Weights, DigestSeesConfigAndBytes) {
  write(config_, tensors_);
  const std::string digest = model_digest(open());
  EXPECT_EQ(digest.size(), 32u);
  EXPECT_EQ(model_digest(open()), digest);
  {
    std::fstream file(directory_.path() / "model.safetensors",
                      std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(-1, std::ios::end);
    file.put('\x55');
  }
  EXPECT_NE(model_digest(open()), digest);
  write(config_, tensors_);
  EXPECT_EQ(model_digest(open()), digest);
  directory_.write("generation_config.json", "{\"eos_token_id\": 3}");
  EXPECT_NE(model_digest(open()), digest);
}

constexpr StepLimits kLimits{
    .max_context = 4096, .max_query_tokens = 512, .max_sampled_rows = 64, .kv_blocks = 1000};

ModelConfig half_billion() {
  ModelConfig config;
  config.shape = {.layers = 24,
                  .hidden = 896,
                  .intermediate = 4864,
                  .heads = 14,
                  .kv_heads = 2,
                  .head_dim = 64,
                  .vocab = 151936,
                  .tied_embeddings = true};
  return config;
}

TEST(MemoryNeed, GrowsWithWhatItIsMadeOf) {
  ModelConfig config = half_billion();
  const StepLimits limits = kLimits;
  const MemoryNeed need = bytes_needed(config, limits);
  const std::int64_t parameters = config.shape.matrix_parameters() + config.shape.embedding_parameters();
  EXPECT_GE(need.weights, 2 * parameters);
  EXPECT_LE(need.weights, 2 * parameters * 102 / 100);
  EXPECT_EQ(need.kv_cache, 1000 * kv_block_bytes(config.shape));
  EXPECT_EQ(kv_block_bytes(config.shape), 16 * 24 * 2 * 2 * 64 * 2);
  config.shape.tied_embeddings = false;
  EXPECT_GT(bytes_needed(config, limits).weights, need.weights);
}

TEST(MemoryNeed, RanksOfAReplicaShareTheCacheAndEveryHostHasTheWeightsOnce) {
  const ModelConfig config = half_billion();
  const MemoryNeed one = bytes_needed(config, kLimits);
  const MemoryNeed two = bytes_needed(config, kLimits, {.sequence = 2, .tensor = 1});
  EXPECT_EQ(two.kv_cache, one.kv_cache / 2);
  // 7 query heads and a KV head of each of two owners: 9 panels each, as many as one owner's 18
  EXPECT_EQ(two.weights, one.weights);
  EXPECT_EQ(bytes_needed(config, kLimits, {.sequence = 1, .tensor = 2}).weights, two.weights);
  EXPECT_EQ(two.on_host(2), two.weights + 2 * (two.kv_cache + two.step_buffers));
  EXPECT_EQ(one.total(), one.on_host(1));
}

TEST(MemoryNeed, ReplicatedKvHeadsAndPaddedOwnersCount) {
  ModelConfig config = half_billion();
  config.shape.heads = 16;
  config.shape.head_dim = 32;
  const MemoryNeed one = bytes_needed(config, kLimits);
  const MemoryNeed eight = bytes_needed(config, kLimits, {.sequence = 4, .tensor = 2});
  // (16 + 2 * 2) * 32 = 640 rows for one owner; 8 x (2 + 2 * 1) * 32 = 8 x 128 = 1024 for eight
  EXPECT_EQ(eight.weights - one.weights, 24LL * (1024 - 640) * (896 * 2 + 4));
  EXPECT_EQ(eight.kv_cache, one.kv_cache / 2) << "two KV heads, held four times";
  EXPECT_LT(eight.step_buffers, one.step_buffers);
  config.shape.head_dim = 8;  // (2 + 2) * 8 = 32 rows of each owner are filled up to a panel of 64
  EXPECT_EQ(bytes_needed(config, kLimits, {.sequence = 8, .tensor = 1}).weights -
                bytes_needed(config, kLimits).weights,
            24LL * ((8 * 64 - 192) * 896 * 2 + (8 * 64 - 192) * 4));
}

}  // namespace
}  // namespace nightshift::model
