// SPDX-License-Identifier: Apache-2.0
// A trained model, end to end below the tokenizer: it must answer, not only agree with a reference.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/golden_models.h"
#include "source_dir.h"

namespace nightshift::test {
namespace {

// Names tokens by their text, which is all that a question of single letters needs.
class Letters {
 public:
  explicit Letters(const std::filesystem::path& directory) {
    const auto json = nlohmann::json::parse(std::ifstream(directory / "tokenizer.json"));
    for (const auto& [text, id] : json.at("model").at("vocab").items()) vocab_[text] = id;
    for (const auto& added : json.at("added_tokens")) vocab_[added.at("content")] = added.at("id");
  }
  TokenId id(const std::string& text) const { return vocab_.at(text); }
  std::string text(TokenId id) const {
    for (const auto& [text, known] : vocab_)
      if (known == id) return text.starts_with("Ġ") ? " " + text.substr(2) : text;
    return "?";
  }

 private:
  std::map<std::string, TokenId> vocab_;
};

std::string answer(model::Model& model, const Letters& letters, const std::vector<std::string>& question) {
  std::vector<TokenId> prompt{letters.id("<|begin|>"), letters.id("<|user|>")};
  for (const std::string& piece : question) prompt.push_back(letters.id(piece));
  prompt.push_back(letters.id("<|end|>"));
  prompt.push_back(letters.id("<|assistant|>"));
  TestSequence sequence = make_sequence(1, prompt, 0, 256);
  std::string text;
  for (int i = 0; i < 40; ++i) {
    step(model, {&sequence}, {static_cast<int>(sequence.tokens.size()) - sequence.computed});
    const TokenId token = sequence.tokens.back();
    if (token == model.config().stop_ids.at(0)) return text;
    text += letters.text(token);
  }
  return text + " (no end)";
}

TEST(TinyTasks, Answers) {
  const std::filesystem::path directory = source_dir() / "inputs/models/tiny-tasks";
  const auto model = model::Model::load(model::open_model_files(directory), small_options(256));
  const Letters letters(directory);
  EXPECT_EQ(answer(*model, letters, {"Reverse", ":", "Ġa", "Ġ", "b", "Ġ", "c"}), "c b a");
  EXPECT_EQ(answer(*model, letters, {"Reverse", ":", "Ġ", "x", "Ġ", "k", "Ġ", "d", "Ġ", "p"}), "p d k x");
}

}  // namespace
}  // namespace nightshift::test
