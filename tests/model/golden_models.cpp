// SPDX-License-Identifier: Apache-2.0
#include "model/golden_models.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "source_dir.h"

namespace nightshift::test {

namespace fs = std::filesystem;

fs::path goldens_path() {
  return source_dir() / "tests/model/goldens";
}

namespace {

std::vector<float> read_floats(const fs::path& file) {
  std::vector<float> values(fs::file_size(file) / sizeof(float));
  std::ifstream(file, std::ios::binary)
      .read(reinterpret_cast<char*>(values.data()),
            static_cast<std::streamsize>(values.size() * sizeof(float)));
  return values;
}

}  // namespace

Golden read_golden(const std::string& name) {
  const auto json = nlohmann::json::parse(std::ifstream(goldens_path() / (name + ".json")));
  Golden golden{.name = name,
                .config = json.value("config", nlohmann::json()),
                .tensors = json.value("tensors", nlohmann::json()),
                .max_context = json.at("max_context"),
                .prompt = json.at("prompt"),
                .tokens = json.at("tokens"),
                .logits = {},
                .rounded = {}};
  golden.logits = read_floats(goldens_path() / (name + ".f32"));
  golden.rounded = read_floats(goldens_path() / (name + ".rounded.f32"));
  return golden;
}

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(goldens_path()))
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}

namespace {

std::uint64_t fnv1a(const std::string& text) {
  std::uint64_t value = 0xCBF29CE484222325ull;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return value;
}

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Exact for the values of the goldens; rounds subnormals to nearest.
std::uint16_t to_f16(float value) {
  const float magnitude = std::abs(value);
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000u : 0u);
  if (magnitude < 0x1.0p-14F)
    return static_cast<std::uint16_t>(sign | static_cast<unsigned>(std::lrint(magnitude * 0x1.0p24F)));
  const auto bits = std::bit_cast<std::uint32_t>(magnitude);
  return static_cast<std::uint16_t>(sign | ((bits - (112u << 23)) >> 13));
}

}  // namespace

std::vector<float> weight_values(const std::string& name, const std::vector<std::int64_t>& shape,
                                 double embedding_scale) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  std::vector<float> values(static_cast<std::size_t>(count));
  const std::uint64_t base = fnv1a(name);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double uniform =
        static_cast<double>(mix(base + (i + 1) * 0x9E3779B97F4A7C15ull) >> 40) / 0x1.0p23 - 1.0;
    double value = uniform * std::sqrt(3.0 / static_cast<double>(shape.back()));
    if (name.ends_with("norm.weight"))
      value = 1.0 + 0.25 * uniform;
    else if (name.ends_with(".bias"))
      value = 0.25 * uniform;
    else if (name.find("embed_tokens") != std::string::npos)
      value = embedding_scale * uniform;
    values[i] = static_cast<float>(bf16(static_cast<float>(value)));
  }
  return values;
}

std::string encode(const std::vector<float>& values, const std::string& dtype) {
  if (dtype == "F32") return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
  std::vector<std::uint16_t> half;
  for (const float value : values) half.push_back(dtype == "F16" ? to_f16(value) : bf16(value).bits);
  return {reinterpret_cast<const char*>(half.data()), half.size() * 2};
}

void write_model(const Golden& golden, const fs::path& directory, const Written& how) {
  nlohmann::json config = golden.config;
  if (how.nested) {
    config = {
        {"model_type", "wrapper"}, {"text_config", golden.config}, {"vision_config", {{"hidden_size", 7}}}};
    config["tie_word_embeddings"] = golden.config.at("tie_word_embeddings");
  }
  std::ofstream(directory / "config.json") << config.dump(2);

  const double scale = golden.config.at("tie_word_embeddings") ? 0.06 : 0.4;
  std::vector<std::vector<TestTensor>> shards(static_cast<std::size_t>(how.shards));
  nlohmann::json map;
  std::size_t next = 0;
  const auto shard_name = [&](std::size_t i) { return "model-" + std::to_string(i) + ".safetensors"; };
  for (const auto& [name, shape] : golden.tensors.items()) {
    const std::vector<std::int64_t> extents = shape;
    const std::size_t shard = next++ % shards.size();
    shards[shard].push_back(
        {how.prefix + name, how.dtype, extents, encode(weight_values(name, extents, scale), how.dtype)});
    map[how.prefix + name] = shard_name(shard);
  }
  if (how.nested) {
    shards[0].push_back({"vision_tower.patch.weight", "I64", {1}, std::string(8, '\1')});
    map["vision_tower.patch.weight"] = shard_name(0);
  }
  const auto write = [&](const std::string& name, const std::vector<TestTensor>& tensors) {
    std::ofstream(directory / name, std::ios::binary) << safetensors(tensors);
  };
  if (how.shards == 1) return write("model.safetensors", shards[0]);
  for (std::size_t i = 0; i < shards.size(); ++i) write(shard_name(i), shards[i]);
  std::ofstream(directory / "model.safetensors.index.json") << nlohmann::json{{"weight_map", map}}.dump();
}

PlannedSequence TestSequence::plan(int count) const {
  PlannedSequence planned;
  planned.id = id;
  planned.computed = computed;
  planned.num_tokens = count;
  planned.samples = computed + count == static_cast<int>(tokens.size());
  planned.prompt_tokens = prompt_tokens;
  planned.tokens = tokens;
  planned.blocks = blocks;
  planned.sampling = &sampling;
  planned.random_key = key;
  return planned;
}

TestSequence make_sequence(SequenceId id, const std::vector<TokenId>& prompt, BlockId first_block,
                           int max_context) {
  TestSequence sequence;
  sequence.id = id;
  sequence.tokens = prompt;
  sequence.prompt_tokens = static_cast<int>(prompt.size());
  sequence.key = 1000 + id;
  for (int i = 0; i < (max_context + kKvBlockTokens - 1) / kKvBlockTokens; ++i)
    sequence.blocks.push_back(first_block + i);
  return sequence;
}

StepResult step(model::Model& model, const std::vector<TestSequence*>& sequences,
                const std::vector<int>& counts, parallel::Layout layout) {
  BatchPlan plan;
  for (std::size_t i = 0; i < sequences.size(); ++i) plan.sequences.push_back(sequences[i]->plan(counts[i]));
  model.submit(plan, layout);
  StepResult result = model.collect();
  std::size_t sampled = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    sequences[i]->computed += counts[i];
    if (plan.sequences[i].samples) sequences[i]->tokens.push_back(result.tokens[sampled++].token);
  }
  EXPECT_EQ(sampled, result.tokens.size());
  return result;
}

model::ModelOptions small_options(int max_context, int kv_blocks) {
  model::ModelOptions options;
  options.limits = {
      .max_context = max_context, .max_query_tokens = 256, .max_sampled_rows = 16, .kv_blocks = kv_blocks};
  return options;
}

}  // namespace nightshift::test
