// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "temporary_model.h"

namespace nightshift::tokenizer {
namespace {

constexpr std::int64_t kClock = 1'700'000'000;  // 2023-11-14 22:13:20 UTC
constexpr const char* kHello = R"([{"role": "user", "content": "hi"}])";

Json config(const Json& chat_template) {
  return {{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}, {"chat_template", chat_template}};
}

ChatTemplate load(const std::string& source) {
  const TemporaryModel model;
  model.write("tokenizer_config.json", config(source).dump());
  return ChatTemplate::load(model.path(), "auto", kClock);
}

std::string failure(const ChatTemplate& chat, const std::string& messages, const std::string& extra = "") {
  try {
    return "rendered: " + chat.render(messages, extra);
  } catch (const BadInput& e) {
    return e.summary();
  }
}

TEST(ChatTemplate, RendersTheDemonstrationModel) {
  const auto chat = ChatTemplate::load(source_dir() / "inputs/models/tiny-tasks", "auto", kClock);
  EXPECT_EQ(
      chat.render(
          R"([{"role":"user","content":"é?"},{"role":"assistant","content":"a"},{"role":"user","content":""}])"),
      "<|begin|><|user|>é?<|end|><|assistant|>a<|end|><|user|><|end|><|assistant|>");
  EXPECT_NE(failure(chat, R"([{"role":"wizard","content":"x"}])").find("unknown role: wizard"),
            std::string::npos);
}

TEST(ChatTemplate, BlocksAreTrimmedAsInTransformers) {
  const auto chat =
      load("{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\nend\n");
  EXPECT_EQ(chat.render(kHello), "hi\nend");
}

TEST(ChatTemplate, SeesSpecialTokensAndArguments) {
  const auto chat = load(
      "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ mood }}{% if add_generation_prompt %}>{% "
      "endif %}");
  EXPECT_EQ(chat.render(kHello), "<s>hi</s>>");
  EXPECT_EQ(chat.render(kHello, R"({"mood": "ok", "add_generation_prompt": false})"), "<s>hi</s>ok");
}

TEST(ChatTemplate, JsonIsWrittenAsPythonWritesIt) {
  const auto chat = load("{{ messages[0].data | tojson }}");
  EXPECT_EQ(chat.render(R"([{"role": "user", "data": {"b": [1, 2.5, null, true], "a": "<é'>"}}])"),
            R"({"b": [1, 2.5, null, true], "a": "<é'>"})");
}

TEST(ChatTemplate, TheClockStandsStill) {
  EXPECT_EQ(load("{{ strftime_now('%Y-%m-%d %H:%M') }}").render(kHello), "2023-11-14 22:13");
}

TEST(ChatTemplate, NoSystemTextIsInvented) {
  const auto chat = load("{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}");
  const std::string tools = R"({"tools": [{"type": "function", "function": {"name": "f"}}]})";
  EXPECT_EQ(chat.render(kHello, tools), "user=hi;");
  EXPECT_EQ(chat.render(R"([{"role":"system","content":"s"},{"role":"user","content":"u"}])"),
            "system=s;user=u;");
}

TEST(ChatTemplate, ContinuesTheLastMessage) {
  const std::string messages = R"([{"role":"user","content":"a"},{"role":"assistant","content":"so far "}])";
  const std::string extra = R"({"continue_final_message": true})";
  EXPECT_EQ(load("{% for m in messages %}<{{ m.content }}>{% endfor %}").render(messages, extra),
            "<a><so far ");
  EXPECT_EQ(load("{% for m in messages %}<{{ m.content.strip() }}>{% endfor %}").render(messages, extra),
            "<a><so far");
  EXPECT_NE(failure(load("{{ messages[0].content }}"), messages, extra).find("continue_final_message"),
            std::string::npos);
  EXPECT_NE(failure(load("x"), messages, R"({"continue_final_message": true, "add_generation_prompt": true})")
                .find("exclude"),
            std::string::npos);
}

TEST(ChatTemplate, FailuresNameTheMessage) {
  const auto chat = load("{{ raise_exception('no system, please') }}");
  EXPECT_NE(failure(chat, kHello).find("no system, please"), std::string::npos);
  EXPECT_EQ(failure(chat, R"([{"content": "x"}])"), "message 0 has no role");
  EXPECT_EQ(failure(chat, R"([{"role": "user", "content": "x"}, {"role": "user"}])"),
            "message 1 has no content");
  EXPECT_EQ(failure(chat, "{}"), "messages are not a JSON array");
  EXPECT_NE(failure(chat, "[{]").find("not valid JSON"), std::string::npos);
  EXPECT_NE(failure(chat, kHello, "[]").find("not a JSON object"), std::string::npos);
}

TEST(ChatTemplate, ArithmeticThatHasNoResultIsAFailureOfTheRow) {
  const char* const kSmallest = "(-9223372036854775807 - 1)";
  for (const std::string& expression :
       {std::string("1 / 0"), std::string("1 // 0"), std::string("1 % 0"),
        std::string("9223372036854775807 + 1"), std::string("9223372036854775807 * 2"),
        kSmallest + std::string(" - 1"), "-" + std::string(kSmallest), kSmallest + std::string(" // -1"),
        kSmallest + std::string(" % -1")}) {
    const std::string why = failure(load("{{ " + expression + " }}"), kHello);
    EXPECT_TRUE(why.find("division by zero") != std::string::npos ||
                why.find("beyond 64 bits") != std::string::npos)
        << expression << ": " << why;
  }
  EXPECT_EQ(load("{{ 7 // 2 }} {{ 7 % 4 }} {{ 3 - 5 }} {{ 3 * 5 }} {{ -4 }}").render(kHello), "3 3 -2 15 -4");
}

TEST(ChatTemplate, TextsThatGrowWithoutBoundAreAFailureOfTheRow) {
  const std::string twice = "{% set n = namespace(s='0123456789abcdef') %}{% for i in range(60) %}";
  for (const std::string& source :
       {twice + "{% set n.s = n.s ~ n.s %}{% endfor %}", twice + "{% set n.s = n.s + n.s %}{% endfor %}",
        twice + "{% set n.s = n.s.replace('0', n.s) %}{% endfor %}",
        twice + "{% set n.s = [n.s, n.s, n.s] | join(n.s) %}{% endfor %}",
        std::string(
            "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}"),
        std::string("{{ 'ab' * 9223372036854775807 }}"),
        std::string("{{ 'a\nb' | indent(9223372036854775807) }}")}) {
    const std::string why = failure(load(source), kHello);
    EXPECT_NE(why.find("more text than a prompt can have"), std::string::npos)
        << source << ": " << why.substr(0, 200);
  }
  EXPECT_EQ(load("{{ 'ab' * 3 }}{{ 'x' * -1 }}{{ ['a', 'b'] | join(', ') }}").render(kHello), "abababa, b");
}

TEST(ChatTemplate, IsFoundWhereverModelsKeepIt) {
  const TemporaryModel model;
  EXPECT_FALSE(ChatTemplate::load(model.path(), "auto", kClock).exists());
  const Json named = {{{"name", "default"}, {"template", "D"}}, {{"name", "tool_use"}, {"template", "T"}}};
  model.write("tokenizer_config.json", config(named).dump());
  EXPECT_EQ(ChatTemplate::load(model.path(), "auto", kClock).render(kHello), "D");
  EXPECT_EQ(ChatTemplate::load(model.path(), "auto", kClock).render(kHello, R"({"tools": [{}]})"), "T");
  model.write("additional_chat_templates/tool_use.jinja", "T2");
  EXPECT_EQ(ChatTemplate::load(model.path(), "auto", kClock).render(kHello, R"({"tools": [{}]})"), "T2");
  model.write("chat_template.jinja", "F");
  const auto from_file = ChatTemplate::load(model.path(), "auto", kClock);
  EXPECT_EQ(from_file.render(kHello), "F");
  model.write("mine.jinja", "M");
  const auto mine = ChatTemplate::load(model.path(), (model.path() / "mine.jinja").string(), kClock);
  EXPECT_EQ(mine.render(kHello), "M");
  EXPECT_NE(mine.digest(), from_file.digest());
  EXPECT_FALSE(ChatTemplate::load(model.path(), "none", kClock).exists());
  EXPECT_THROW(ChatTemplate::load(model.path(), "none", kClock).render(kHello), BadInput);
  EXPECT_THROW(load("{% if %}"), BadInput);
}

}  // namespace
}  // namespace nightshift::tokenizer
