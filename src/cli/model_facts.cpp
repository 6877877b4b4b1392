// SPDX-License-Identifier: Apache-2.0
#include "cli/model_facts.h"

#include <map>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace nightshift::cli {
namespace {

using nlohmann::json;

// Only the presence of a template and its digest are asked for here; nothing is rendered.
constexpr std::int64_t kAnyClock = 0;

std::map<std::string, std::uint64_t> bytes_by_dtype(const model::Checkpoint& checkpoint) {
  std::map<std::string, std::uint64_t> bytes;
  for (const auto& [name, tensor] : checkpoint.tensors) bytes[tensor.dtype] += tensor.bytes;
  return bytes;
}

std::string stop_tokens(const ModelFacts& facts) {
  std::string text;
  for (const TokenId id : facts.files.config.stop_ids) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", id, facts.tokenizer.token_of(id));
  }
  return text.empty() ? "none" : text;
}

std::string row(const char* name, const std::string& value) {
  return fmt::format("  {:<18}{}\n", name, value);
}

}  // namespace

std::string ModelFacts::digest() const {
  return fmt::format("{}-{}-{}", model::model_digest(files), tokenizer.digest(),
                     chat.exists() ? chat.digest() : "none");
}

ModelFacts read_model_facts(const std::filesystem::path& directory, const std::string& chat_template) {
  if (!std::filesystem::is_directory(directory)) {
    throw BadInput(
        fmt::format("no model directory {}", directory.string()),
        "model.path names a Hugging Face directory with config.json, *.safetensors and tokenizer.json");
  }
  model::ModelFiles files = model::open_model_files(directory);
  auto tokenizer = tokenizer::Tokenizer::load(directory);
  return {std::move(files), std::move(tokenizer),
          tokenizer::ChatTemplate::load(directory, chat_template, kAnyClock)};
}

std::string to_text(const ModelFacts& facts) {
  const model::ModelConfig& config = facts.files.config;
  const ModelShape& shape = config.shape;
  const auto total = static_cast<double>(facts.files.checkpoint.tensor_bytes());
  std::string types;
  for (const auto& [dtype, bytes] : bytes_by_dtype(facts.files.checkpoint)) {
    types +=
        fmt::format("{}{} {}", types.empty() ? "" : ", ", dtype, format_bytes(static_cast<double>(bytes)));
  }
  std::string text = facts.files.directory.string() + "\n";
  text += row("family", config.model_type);
  text += row("parameters", format_count(static_cast<double>(facts.parameters())));
  text += row("checkpoint", fmt::format("{} files, {} ({})", facts.files.checkpoint.files.size(),
                                        format_bytes(total), types));
  text += row("layers", fmt::format("{}, hidden {}, MLP {}", shape.layers, shape.hidden, shape.intermediate));
  text += row("attention", fmt::format("{} heads, {} KV heads, head size {}", shape.heads, shape.kv_heads,
                                       shape.head_dim));
  text +=
      row("vocabulary", fmt::format("{} rows, tokenizer {} ids{}", shape.vocab, facts.tokenizer.vocab_size(),
                                    shape.tied_embeddings ? ", embeddings tied" : ""));
  text += row("context",
              fmt::format("{} tokens", format_count(static_cast<double>(model::longest_context(config)))));
  text += row("KV cache", format_bytes(static_cast<double>(shape.kv_bytes_per_token())) + " per token");
  text += row("stop tokens", stop_tokens(facts));
  text += row("chat template", facts.chat.exists() ? facts.chat.digest() : "none");
  text += row("digest", facts.digest());
  return text;
}

std::string to_json(const ModelFacts& facts) {
  const model::ModelConfig& config = facts.files.config;
  const ModelShape& shape = config.shape;
  return json{{"path", facts.files.directory.string()},
              {"family", config.model_type},
              {"parameters", facts.parameters()},
              {"checkpoint_files", facts.files.checkpoint.files.size()},
              {"checkpoint_bytes", bytes_by_dtype(facts.files.checkpoint)},
              {"layers", shape.layers},
              {"hidden", shape.hidden},
              {"intermediate", shape.intermediate},
              {"heads", shape.heads},
              {"kv_heads", shape.kv_heads},
              {"head_dim", shape.head_dim},
              {"vocab", shape.vocab},
              {"tied_embeddings", shape.tied_embeddings},
              {"tokenizer_ids", facts.tokenizer.vocab_size()},
              {"context", model::longest_context(config)},
              {"kv_bytes_per_token", shape.kv_bytes_per_token()},
              {"stop_ids", config.stop_ids},
              {"chat_template", facts.chat.exists()},
              {"digest", facts.digest()}}
      .dump();
}

}  // namespace nightshift::cli
