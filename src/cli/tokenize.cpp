// SPDX-License-Identifier: Apache-2.0
#include <ctime>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "tokenizer/tokenizer.h"

namespace nightshift::cli {
namespace {

using nlohmann::json;
using tokenizer::ChatTemplate;
using tokenizer::Tokenizer;

struct TokenizeOptions {
  std::string model;
  std::string chat_template = "auto";
  bool decode = false;
  bool chat = false;
  bool text = false;
  bool plain = false;
};

// One line's answer.
class Line {
 public:
  explicit Line(const TokenizeOptions& options)
      : options_(options), tokenizer_(Tokenizer::load(options.model)) {
    if (!options.chat) return;
    template_ = ChatTemplate::load(options.model, options.chat_template, std::time(nullptr));
    if (!template_.exists()) {
      throw BadInput(fmt::format("{} has no chat template", options.model),
                     "name a file with --chat-template");
    }
  }

  json answer(const std::string& line) const {
    const json in = json::parse(line);
    if (options_.decode) return tokenizer_.decode(in.get<std::vector<TokenId>>(), options_.plain);
    if (!options_.chat) return tokenizer_.encode(in.get_ref<const std::string&>(), !options_.plain);
    const std::string rendered = template_.render(in.dump());
    if (options_.text) return rendered;
    return tokenizer_.encode(rendered, false);
  }

 private:
  const TokenizeOptions& options_;
  Tokenizer tokenizer_;
  ChatTemplate template_;
};

// Every line of input gives one line of output, so that line numbers agree; null stands for a line that
// failed.
Exit tokenize(const TokenizeOptions& options) {
  const Line line(options);
  std::ios::sync_with_stdio(false);
  std::cin.tie(nullptr);
  Exit exit = Exit::done;
  std::string text;
  for (std::uint64_t number = 1; std::getline(std::cin, text); ++number) {
    json out;
    try {
      out = line.answer(text);
    } catch (const std::exception& error) {
      std::cerr << fmt::format("line {}: {}\n", number, error.what());
      exit = Exit::failed;
    }
    std::cout << out.dump(-1, ' ', false, json::error_handler_t::replace) << '\n';
    if (std::cin.rdbuf()->in_avail() <= 0) std::cout.flush();  // a program that waits for its answer gets it
  }
  return exit;
}

}  // namespace

void add_tokenize(Front& front) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = front.app.add_subcommand("tokenize", "Turn lines of text into token ids, or back");
  command->add_option("model", options->model, "a Hugging Face model directory")
      ->required()
      ->type_name("MODEL_DIR");
  auto* decode = command->add_flag("--decode", options->decode, "lists of ids to strings");
  auto* chat =
      command->add_flag("--chat", options->chat, "lists of chat messages to ids, by the chat template");
  decode->excludes(chat);
  command->add_flag("--text", options->text, "with --chat: the rendered prompt as a string, not its ids")
      ->needs(chat);
  command->add_option("--chat-template", options->chat_template, "a Jinja file instead of the model's own")
      ->type_name("FILE");
  command->add_flag("--no-special", options->plain,
                    "no BOS and the like: not added, or dropped with --decode");
  command->footer(
      "Reads JSON from stdin and writes JSON to stdout, one value per line: a string gives a list of ids; "
      "with\n"
      "--decode a list of ids gives a string; with --chat a list of messages gives a list of ids. A line "
      "that\n"
      "cannot be read gives null, a message on stderr, and exit code 1 at the end.\n\n"
      "Examples:\n"
      "  echo '\"Hello, world\"' | nightshift tokenize /models/Llama-3.1-8B-Instruct\n"
      "  echo '[{\"role\":\"user\",\"content\":\"Hi\"}]' | nightshift tokenize /models/Qwen3-8B --chat "
      "--text\n");
  command->callback([&front, options] { front.action = [options] { return tokenize(*options); }; });
}

}  // namespace nightshift::cli
