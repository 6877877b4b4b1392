// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer.h"

#include <mutex>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/decoder.h"
#include "tokenizer/model_config.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

// What one call of encode works with. Calls borrow one and hand it back, so that the cache stays warm and two
// threads never share one.
struct Workspace {
  BpeWorkspace bpe;
  std::string normalized;
  std::vector<TextPart> raw_parts, parts;
};

class WorkspacePool {
 public:
  std::unique_ptr<Workspace> take() {
    const std::scoped_lock lock(mutex_);
    if (free_.empty()) return std::make_unique<Workspace>();
    auto work = std::move(free_.back());
    free_.pop_back();
    return work;
  }
  void give(std::unique_ptr<Workspace> work) {
    const std::scoped_lock lock(mutex_);
    free_.push_back(std::move(work));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> free_;
};

class BpeSink final : public PieceSink {
 public:
  BpeSink(const Bpe& model, BpeWorkspace& work, std::vector<TokenId>& ids)
      : model_(model), work_(work), ids_(ids) {}
  void piece(std::string_view text) override { model_.encode(text, work_, ids_); }

 private:
  const Bpe& model_;
  BpeWorkspace& work_;
  std::vector<TokenId>& ids_;
};

}  // namespace

struct TokenizerParts {
  TokenizerParts(const Json& json, const Json& config);

  void encode_text(std::string_view text, bool at_start, Workspace& work, std::vector<TokenId>& ids) const;

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe model;
  AddedTokens added;
  PostProcessor post_processor;
  std::vector<std::string> tokens;  // by id, as written
  std::vector<bool> special;        // by id
  Decoder decoder;
  std::string bos, eos, digest;
  mutable WorkspacePool workspaces;

 private:
  std::vector<std::string> collect_tokens();
};

TokenizerParts::TokenizerParts(const Json& json, const Json& config)
    : normalizer(find_field(json, "normalizer")),
      pre_tokenizer(find_field(json, "pre_tokenizer")),
      model(field<Json>(json, "model"), pre_tokenizer.ends_byte_level()),
      added(find_field(json, "added_tokens"), model,
            [this](std::string text) {
              normalizer.apply(text);
              return text;
            }),
      post_processor(find_field(json, "post_processor")),
      decoder(find_field(json, "decoder"), collect_tokens()) {
  const Json texts = special_token_texts(config);
  bos = field_or<std::string>(texts, "bos_token", "");
  eos = field_or<std::string>(texts, "eos_token", "");
  for (const auto* ids : {&post_processor.before, &post_processor.behind}) {
    for (const TokenId id : *ids) {
      if (id >= 0 && static_cast<std::size_t>(id) < tokens.size()) continue;
      throw BadInput(fmt::format("tokenizer.json: the post-processor adds the id {}, which no token has", id),
                     "fetch the file again");
    }
  }
}

// Fills `tokens` and `special`, and returns what the decoder is to work on: the model's tokens and the added
// ones.
std::vector<std::string> TokenizerParts::collect_tokens() {
  tokens = model.tokens();
  for (const auto& [id, token] : added.by_id()) {
    if (static_cast<std::size_t>(id) >= tokens.size()) tokens.resize(static_cast<std::size_t>(id) + 1);
  }
  special.assign(tokens.size(), false);
  std::vector<std::string> forms = tokens;
  for (const auto& [id, token] : added.by_id()) {
    const auto index = static_cast<std::size_t>(id);
    tokens[index] = token.content;
    forms[index] = token.form;
    special[index] = token.special;
  }
  return forms;
}

// One stretch of text between tokens that are looked for in the raw text.
void TokenizerParts::encode_text(std::string_view text, bool at_start, Workspace& work,
                                 std::vector<TokenId>& ids) const {
  if (!normalizer.empty()) {
    work.normalized.assign(text);
    normalizer.apply(work.normalized);
    text = work.normalized;
  }
  BpeSink sink(model, work.bpe, ids);
  added.split(text, true, work.parts);
  for (const TextPart& part : work.parts) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else if (part.begin != part.end) {
      pre_tokenizer.run(text.substr(part.begin, part.end - part.begin), at_start && part.begin == 0, sink);
    }
  }
}

InvalidUtf8::InvalidUtf8(std::size_t byte_offset)
    : BadInput(fmt::format("invalid_utf8: the text is not UTF-8 at byte {}", byte_offset)),
      byte_offset_(byte_offset) {}

Tokenizer Tokenizer::load(const std::filesystem::path& model_dir) {
  const auto path = model_dir / "tokenizer.json";
  if (!std::filesystem::exists(path)) {
    throw BadInput(fmt::format("{}: there is no tokenizer.json", model_dir.string()),
                   "save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(DIR)");
  }
  const std::string text = read_file(path);
  const Json config = read_model_config(model_dir);
  try {
    auto parts = std::make_shared<TokenizerParts>(parse_json(text, path), config);
    Digest digest;
    digest.add(text);
    digest.add(config.dump());
    parts->digest = digest.hex();
    return Tokenizer(std::move(parts));
  } catch (const BadInput& e) {
    throw BadInput(fmt::format("{}: {}", model_dir.string(), e.summary()), e.remedy());
  } catch (const Json::exception& e) {
    throw BadInput(fmt::format("{}: tokenizer.json: {}", model_dir.string(), e.what()),
                   "fetch the file again");
  }
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (const auto valid = valid_prefix(text); valid != text.size()) throw InvalidUtf8(valid);
  auto work = parts_->workspaces.take();
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 4 + 8);
  const PostProcessor& post = parts_->post_processor;
  if (add_special_tokens) ids = post.before;
  parts_->added.split(text, false, work->raw_parts);
  for (const TextPart& part : work->raw_parts) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else if (part.begin != part.end) {
      parts_->encode_text(text.substr(part.begin, part.end - part.begin), part.begin == 0, *work, ids);
    }
  }
  if (add_special_tokens) ids.insert(ids.end(), post.behind.begin(), post.behind.end());
  parts_->workspaces.give(std::move(work));
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  DecoderState state;
  std::string text;
  for (const TokenId id : ids) {
    if (!skip_special_tokens || !is_special(id)) parts_->decoder.push(state, id, text);
  }
  parts_->decoder.finish(state, text);
  return text;
}

int Tokenizer::vocab_size() const {
  return static_cast<int>(parts_->tokens.size());
}

std::optional<TokenId> Tokenizer::id_of(std::string_view token) const {
  for (const auto& [id, added] : parts_->added.by_id()) {
    if (added.content == token) return id;
  }
  const TokenId id = parts_->model.id_of(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::string_view Tokenizer::token_of(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return parts_->tokens[static_cast<std::size_t>(id)];
}

bool Tokenizer::is_special(TokenId id) const {
  return id >= 0 && id < vocab_size() && parts_->special[static_cast<std::size_t>(id)];
}

const std::string& Tokenizer::bos_token() const {
  return parts_->bos;
}
const std::string& Tokenizer::eos_token() const {
  return parts_->eos;
}
std::optional<TokenId> Tokenizer::bos_id() const {
  return id_of(bos_token());
}
std::optional<TokenId> Tokenizer::eos_id() const {
  return id_of(eos_token());
}
const std::string& Tokenizer::digest() const {
  return parts_->digest;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : parts_(tokenizer.parts_),
      state_(std::make_unique<DecoderState>()),
      skip_special_(skip_special_tokens) {}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(TokenId id) {
  std::string text;
  const auto index = static_cast<std::size_t>(id);
  const bool special = id >= 0 && index < parts_->special.size() && parts_->special[index];
  if (!skip_special_ || !special) parts_->decoder.push(*state_, id, text);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  parts_->decoder.finish(*state_, text);
  return text;
}

}  // namespace nightshift::tokenizer
