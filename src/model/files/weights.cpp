// SPDX-License-Identifier: Apache-2.0
#include "model/files/weights.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "core/check.h"

namespace nightshift::model {

namespace {

constexpr std::size_t kNamesInMessage = 4;

// Where the language model hangs in the tree of names, from plain to the wrappers of both transformers
// schemas.
struct Prefix {
  std::string_view body;  // before embed_tokens, layers and norm
  std::string_view head;  // before lm_head
};
constexpr std::array kPrefixes{Prefix{"model.", ""}, Prefix{"language_model.model.", "language_model."},
                               Prefix{"model.language_model.", ""}, Prefix{"", ""}};

Prefix find_prefix(const Checkpoint& checkpoint) {
  for (const Prefix& prefix : kPrefixes)
    if (checkpoint.find(std::string(prefix.body) + "embed_tokens.weight") != nullptr) return prefix;
  throw BadInput(checkpoint.files.front().path.string() + ": no tensor is named model.embed_tokens.weight",
                 "the weights do not follow the naming of a supported family: " + known_families());
}

std::string full_name(const Prefix& prefix, const WeightName& entry, int layer) {
  if (entry.weight == Weight::head) return std::string(prefix.head) + std::string(entry.name);
  if (layer < 0) return std::string(prefix.body) + std::string(entry.name);
  return fmt::format("{}layers.{}.{}", prefix.body, layer, entry.name);
}

bool matches(const TensorInfo& tensor, const WeightShape& shape) {
  const std::vector<std::int64_t> expected =
      shape.columns == 0 ? std::vector{shape.rows} : std::vector{shape.rows, shape.columns};
  return tensor.shape == expected;
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kNamesInMessage); ++i)
    text += (i > 0 ? ", " : "") + names[i];
  if (names.size() > kNamesInMessage) text += fmt::format(" and {} more", names.size() - kNamesInMessage);
  return text;
}

bool ends_with_any(std::string_view name, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view end) { return name.ends_with(end); });
}

// Layer index behind "<body>layers."; -1 when the name has none.
int layer_of(std::string_view name, std::string_view body) {
  const std::string start = std::string(body) + "layers.";
  int layer = -1;
  if (name.starts_with(start)) std::from_chars(name.data() + start.size(), name.data() + name.size(), layer);
  return layer;
}

bool may_be_ignored(std::string_view name, const Prefix& prefix, const ModelConfig& config) {
  if (ends_with_any(name,
                    {"rotary_emb.inv_freq", ".cos_cached", ".sin_cached", ".attn.bias", ".masked_bias"}))
    return true;
  if (name.starts_with("mtp.") || layer_of(name, prefix.body) >= config.shape.layers) return true;
  if (config.shape.tied_embeddings && name == std::string(prefix.head) + "lm_head.weight") return true;
  const bool wrapped = prefix.body.find("language_model") != std::string_view::npos;
  return wrapped && !name.starts_with(prefix.body) && !name.starts_with("lm_head");
}

void refuse_unexpected(const ModelConfig& config, const Checkpoint& checkpoint, const Prefix& prefix,
                       const std::set<std::string_view>& used) {
  std::vector<std::string> unexpected;
  for (const auto& [name, tensor] : checkpoint.tensors)
    if (!used.contains(name) && !may_be_ignored(name, prefix, config)) unexpected.push_back(name);
  if (!unexpected.empty())
    throw BadInput(fmt::format("{}: tensors that a {} model does not have: {}",
                               checkpoint.files.front().path.string(), config.model_type, join(unexpected)),
                   "the checkpoint does not fit its config.json; ignoring them would change the answers");
}

}  // namespace

std::vector<WeightTensor> map_weights(const ModelConfig& config, const Checkpoint& checkpoint) {
  const Prefix prefix = find_prefix(checkpoint);
  std::vector<WeightTensor> weights;
  std::vector<std::string> missing;
  std::set<std::string_view> used;
  const auto add = [&](const WeightName& entry, int layer) {
    const std::string name = full_name(prefix, entry, layer);
    const TensorInfo* tensor = checkpoint.find(name);
    if (tensor == nullptr) return missing.push_back(name);
    const WeightShape shape = expected_shape(entry.weight, config.shape);
    const auto& file = checkpoint.files[static_cast<std::size_t>(tensor->file)].path;
    if (!matches(*tensor, shape))
      throw BadInput(fmt::format("{}: tensor \"{}\" has shape [{}], config.json asks for [{}{}]",
                                 file.string(), name, fmt::join(tensor->shape, ", "), shape.rows,
                                 shape.columns == 0 ? "" : fmt::format(", {}", shape.columns)),
                     "config.json and weights belong to different models");
    weights.push_back({entry.weight, layer, shape, weight_dtype(*tensor, checkpoint), tensor});
    used.insert(tensor->name);
  };
  for (const WeightName& entry : find_family(config.model_type)->names) {
    if (!is_needed(entry.needs, config)) continue;
    if (!is_per_layer(entry.weight)) add(entry, -1);
    for (int layer = 0; is_per_layer(entry.weight) && layer < config.shape.layers; ++layer) add(entry, layer);
  }
  if (!missing.empty())
    throw BadInput(
        fmt::format("{}: missing tensors: {}", checkpoint.files.front().path.string(), join(missing)),
        missing.front().ends_with("lm_head.weight")
            ? "if the model shares embedding and head, set tie_word_embeddings to true in config.json"
            : "the checkpoint is incomplete or config.json belongs to another model");
  refuse_unexpected(config, checkpoint, prefix, used);
  std::sort(weights.begin(), weights.end(), [](const WeightTensor& a, const WeightTensor& b) {
    return std::pair(a.tensor->file, a.tensor->offset) < std::pair(b.tensor->file, b.tensor->offset);
  });
  return weights;
}

}  // namespace nightshift::model
