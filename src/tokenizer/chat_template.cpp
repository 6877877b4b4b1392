// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <ctime>
#include <map>
#include <minja/minja.hpp>
#include <utility>

#include "core/text.h"
#include "tokenizer/model_config.h"
#include "tokenizer/template_context.h"
#include "tokenizer/tokenizer.h"

namespace nightshift::tokenizer {
namespace {

using OrderedJson = nlohmann::ordered_json;

// minja adds where in the template it was, with the source around it: not for a row's reason.
std::string own_words(std::string_view message) {
  return std::string(message.substr(0, std::min(message.find(" at row "), message.find('\n'))));
}

// Put behind the last message and looked for in the rendered text: what follows it is the template's, and is
// cut off.
constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";

std::map<std::string, std::string> templates_of(const std::filesystem::path& model_dir, const Json& config) {
  std::map<std::string, std::string> templates;
  if (const Json* value = find_field(config, "chat_template")) {
    if (value->is_string()) templates["default"] = *value;
    if (value->is_array()) {
      for (const Json& entry : *value)
        templates[field<std::string>(entry, "name")] = field<std::string>(entry, "template");
    }
  }
  if (const auto path = model_dir / "chat_template.jinja"; std::filesystem::exists(path)) {
    templates["default"] = read_file(path);
  }
  if (const auto more = model_dir / "additional_chat_templates"; std::filesystem::is_directory(more)) {
    for (const auto& entry : std::filesystem::directory_iterator(more)) {
      if (entry.path().extension() == ".jinja")
        templates[entry.path().stem().string()] = read_file(entry.path());
    }
  }
  return templates;
}

std::string format_time(std::int64_t unix_seconds, const std::string& format) {
  const auto time = static_cast<std::time_t>(unix_seconds);
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[256];
  return std::string(text, std::strftime(text, sizeof text, format.c_str(), &parts));
}

OrderedJson parse_argument(std::string_view text, const char* what) {
  if (nests_deeper(text, kMaxJsonDepth))
    throw BadInput(fmt::format("{} nest deeper than {} levels", what, kMaxJsonDepth));
  try {
    return OrderedJson::parse(text);
  } catch (const OrderedJson::parse_error& e) {
    throw BadInput(fmt::format("{} are not valid JSON at byte {}", what, e.byte));
  } catch (const OrderedJson::out_of_range&) {
    throw BadInput(fmt::format("{} hold a number beyond what a double can hold", what));
  }
}

// minja cannot tell a missing field from null and writes "None" for it in the middle of a prompt, where Jinja
// raises or writes nothing. So a message must say who speaks, and hold something.
void check_message(const OrderedJson& message, std::size_t index) {
  if (!message.is_object())
    throw BadInput(fmt::format("message {} is not an object: {:.80}", index, message.dump()));
  if (!message.contains("role") || !message["role"].is_string()) {
    throw BadInput(fmt::format("message {} has no role", index));
  }
  for (const auto& [name, value] : message.items()) {
    if (name != "role" && name != "name" && !value.is_null()) return;
  }
  throw BadInput(fmt::format("message {} has no content", index));
}

OrderedJson parse_messages(std::string_view text) {
  OrderedJson messages = parse_argument(text, "messages");
  if (!messages.is_array()) throw BadInput("messages are not a JSON array");
  for (std::size_t i = 0; i < messages.size(); ++i) check_message(messages[i], i);
  return messages;
}

// Reasoning goes by three names; templates read the first, those of gpt-oss the second (as transformers
// does).
void alias_reasoning(OrderedJson& message) {
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const auto it = message.find(name);
    if (it == message.end() || it->is_null()) continue;
    const OrderedJson reasoning = *it;
    if (!message.contains("thinking")) message["thinking"] = reasoning;
    message["reasoning_content"] = reasoning;
    return;
  }
}

// Marks the end of the last message's text.
void tag_final_message(OrderedJson& messages) {
  if (messages.empty()) throw BadInput("continue_final_message: there is no message");
  OrderedJson& content = messages.back()["content"];
  if (content.is_string()) {
    content = content.get<std::string>() + std::string(kContinueTag);
    return;
  }
  if (content.is_array()) {
    for (auto block = content.rbegin(); block != content.rend(); ++block) {
      if (!block->is_object() || !block->contains("text")) continue;
      (*block)["text"] = (*block)["text"].get<std::string>() + std::string(kContinueTag);
      return;
    }
  }
  throw BadInput("continue_final_message: the last message has no text to continue");
}

std::string cut_at_tag(const std::string& rendered) {
  const std::string_view bare = kContinueTag.substr(0, kContinueTag.size() - 1);
  const auto at = rendered.rfind(bare);
  if (at == std::string::npos) {
    throw BadInput("continue_final_message: the template does not show the end of the last message");
  }
  std::string text = rendered.substr(0, at);
  // A template that trims the message has eaten the tag's blank, and would have eaten the message's.
  const bool trimmed = rendered.compare(at, kContinueTag.size(), kContinueTag) != 0;
  while (trimmed && !text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  return text;
}

}  // namespace

struct ChatTemplate::Impl {
  struct Entry {
    std::shared_ptr<minja::TemplateNode> root;
  };
  std::map<std::string, Entry> entries;  // by name; "default" where there is just one
  OrderedJson special_tokens;
  std::int64_t clock = 0;
  std::string digest;

  const Entry& choose(bool with_tools) const;
  std::shared_ptr<minja::Context> context(const OrderedJson& messages, const OrderedJson& extra,
                                          std::size_t input_bytes) const;
};

const ChatTemplate::Impl::Entry& ChatTemplate::Impl::choose(bool with_tools) const {
  if (const auto it = entries.find("tool_use"); with_tools && it != entries.end()) return it->second;
  if (const auto it = entries.find("default"); it != entries.end()) return it->second;
  throw BadInput("the model has several chat templates and none is named \"default\"",
                 "name a file in model.chat_template");
}

std::shared_ptr<minja::Context> ChatTemplate::Impl::context(const OrderedJson& messages,
                                                            const OrderedJson& extra,
                                                            std::size_t input_bytes) const {
  OrderedJson variables = special_tokens;
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = true;
  variables.update(extra);
  variables["messages"] = messages;
  auto context = bounded_context(minja::Value(variables), input_bytes);
  const auto now = clock;
  context->set("strftime_now", minja::Value::callable([now](const auto&, minja::ArgumentsValue& arguments) {
                 arguments.expectArgs("strftime_now", {1, 1}, {0, 0});
                 return minja::Value(format_time(now, arguments.args[0].get<std::string>()));
               }));
  return context;
}

ChatTemplate ChatTemplate::load(const std::filesystem::path& model_dir, const std::string& choice,
                                std::int64_t clock_unix_seconds) {
  ChatTemplate result;
  if (choice == "none") return result;
  const Json config = read_model_config(model_dir);
  std::map<std::string, std::string> sources;
  if (choice == "auto") {
    sources = templates_of(model_dir, config);
  } else {
    sources["default"] = read_file(choice);
  }
  if (sources.empty()) return result;
  auto impl = std::make_shared<Impl>();
  Digest digest;
  for (const auto& [name, source] : sources) {
    try {
      check_template_source(source);
      impl->entries[name].root =
          minja::Parser::parse(source, {true, true, false});  // trim, lstrip, no last newline
    } catch (const std::exception& e) {
      throw BadInput(fmt::format("chat template \"{}\" of {}: {}", name, model_dir.string(), e.what()),
                     "name a corrected file in model.chat_template");
    }
    digest.add(name);
    digest.add(source);
  }
  impl->special_tokens = special_token_texts(config);
  impl->clock = clock_unix_seconds;
  impl->digest = digest.hex();
  result.impl_ = std::move(impl);
  return result;
}

std::string ChatTemplate::render(std::string_view messages_json, std::string_view extra_json) const {
  if (!exists()) {
    throw BadInput("the model has no chat template",
                   "give prompts as text, or name a file in model.chat_template");
  }
  OrderedJson messages = parse_messages(messages_json);
  OrderedJson extra =
      extra_json.empty() ? OrderedJson::object() : parse_argument(extra_json, "template arguments");
  if (!extra.is_object()) throw BadInput("template arguments are not a JSON object");
  for (auto& message : messages) alias_reasoning(message);
  const bool continues = extra.value("continue_final_message", false);
  extra.erase("continue_final_message");
  if (continues) {
    if (extra.value("add_generation_prompt", false)) {
      throw BadInput("continue_final_message and add_generation_prompt exclude each other");
    }
    extra["add_generation_prompt"] = false;
    tag_final_message(messages);
  }
  const bool with_tools = extra.contains("tools") && !extra["tools"].is_null();
  const auto& entry = impl_->choose(with_tools);
  std::string text;
  try {
    text = entry.root->render(impl_->context(messages, extra, messages_json.size() + extra_json.size()));
  } catch (const std::exception& e) {
    throw BadInput(fmt::format("chat template: {}", own_words(e.what())));
  }
  return continues ? cut_at_tag(text) : text;
}

const std::string& ChatTemplate::digest() const {
  static const std::string kNone;
  return impl_ ? impl_->digest : kNone;
}

}  // namespace nightshift::tokenizer
