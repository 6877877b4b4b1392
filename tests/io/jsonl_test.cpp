// SPDX-License-Identifier: Apache-2.0
#include "io/jsonl.h"

#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "io/hdf5.h"
#include "io/support.h"

namespace nightshift::io {
namespace {

using nlohmann::json;
using test::message_of;
using test::Scratch;
using test::slurp;
using test::spill;

std::vector<json> lines_of(const std::string& path) {
  std::istringstream in(slurp(path));
  std::vector<json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

std::string jsonl(const std::vector<json>& lines) {
  std::string text;
  for (const json& line : lines) text += line.dump() + "\n";
  return text;
}

json completion(const std::string& id, const json& prompt, json body = json::object()) {
  body["prompt"] = prompt;
  return {{"custom_id", id}, {"method", "POST"}, {"url", "/v1/completions"}, {"body", body}};
}

// Every body field of the batch form, each present in some of the lines, with values of every legal kind.
json random_body(std::mt19937& random, bool chat) {
  const auto flip = [&] { return random() % 2 == 0; };
  json body{{"model", flip() ? "small" : "größer"}};
  const auto sometimes = [&](const char* name, const json& value) {
    if (random() % 3 == 0) body[name] = value;
  };
  sometimes("max_tokens", 1 + random() % 4096);
  sometimes("max_completion_tokens", 1 + random() % 4096);
  sometimes("min_tokens", random() % 10);
  sometimes("temperature", flip() ? json(0) : json(0.7));
  sometimes("top_p", 0.1 * static_cast<double>(random() % 11));
  sometimes("top_k", random() % 100);
  sometimes("min_p", 0.05);
  sometimes("repetition_penalty", 1.1);
  sometimes("presence_penalty", flip() ? json(-1) : json(0.5));
  sometimes("frequency_penalty", -1.5);
  sometimes("seed", random());
  sometimes("n", 1 + random() % 4);
  sometimes("stop", flip() ? json("\n[") : json({"a", "[b", "ü"}));
  sometimes("stop_token_ids", json({1, 2, 3}));
  sometimes("ignore_eos", flip());
  sometimes("logprobs", chat ? json(flip()) : json(random() % 5));
  if (chat) sometimes("top_logprobs", random() % 5);
  sometimes("user", "someone");
  sometimes("metadata", json{{"a", {1, 2.5, nullptr}}});
  sometimes("store", false);
  sometimes("stream", false);
  sometimes("logit_bias", json{{"50256", -100}});
  sometimes("response_format", json{{"type", "json_object"}});
  sometimes("tools", json::array({{{"type", "function"}, {"function", {{"name", "f"}}}}}));
  sometimes("tool_choice", "auto");
  sometimes("chat_template_kwargs", json{{"enable_thinking", flip()}});
  sometimes("temperature_typo", 3);
  sometimes("echo", true);
  sometimes("best_of", nullptr);
  sometimes("seed", -5);  // wrong values stay what they are, too
  sometimes("max_tokens", "many");
  return body;
}

json random_messages(std::mt19937& random, int i) {
  json messages =
      json::array({{{"role", "system"}, {"content", "Be brief. 日本 🌙 \u0000 \"quoted\" \\ \n"}}});
  const int turns = static_cast<int>(random() % 4);
  for (int turn = 0; turn < turns; ++turn) {
    messages.push_back(
        {{"role", turn % 2 == 0 ? "user" : "assistant"}, {"content", "turn " + std::to_string(turn + i)}});
  }
  messages.push_back(
      {{"role", "user"}, {"content", json::array({{{"type", "text"}, {"text", std::to_string(i)}}})}});
  return messages;
}

void expect_round_trip(const std::vector<json>& lines) {
  const Scratch s;
  spill(s.path("in.jsonl"), jsonl(lines));
  EXPECT_EQ(import_batch(s.path("in.jsonl"), s.path("p.h5")).rows, lines.size());
  PromptReader(s.path("p.h5")).check_all_rows();
  EXPECT_EQ(export_batch(s.path("p.h5"), s.path("out.jsonl")), lines.size());
  const std::vector<json> back = lines_of(s.path("out.jsonl"));
  ASSERT_EQ(back.size(), lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i) ASSERT_EQ(back[i], lines[i]) << i;
}

TEST(Jsonl, TenThousandChatLinesComeBackEqual) {
  std::mt19937 random(3);
  std::vector<json> lines;
  for (int i = 0; i < 10000; ++i) {
    json body = random_body(random, true);
    body["messages"] = random_messages(random, i);
    lines.push_back({{"custom_id", "request-" + std::to_string(i)},
                     {"method", "POST"},
                     {"url", "/v1/chat/completions"},
                     {"body", body}});
    if (i % 7 == 0) lines.back()["priority"] = i;
  }
  expect_round_trip(lines);
}

TEST(Jsonl, CompletionLinesComeBackEqual) {
  std::mt19937 random(4);
  std::vector<json> texts, tokens;
  for (int i = 0; i < 3000; ++i) {
    texts.push_back(
        completion("t" + std::to_string(i), "größe " + std::to_string(i), random_body(random, false)));
    json ids = json::array();
    for (int k = 0; k < i % 20; ++k) ids.push_back(random() % 100000);
    tokens.push_back(completion("i" + std::to_string(i), ids, random_body(random, false)));
  }
  expect_round_trip(texts);
  expect_round_trip(tokens);
}

TEST(Jsonl, FieldsReachTheSamplingParameters) {
  const Scratch s;
  std::vector<json> lines;
  for (int i = 0; i < 5000; ++i) lines.push_back(completion(std::to_string(i), "x"));
  lines[4999]["body"].update({{"temperature", 0.5},
                              {"max_completion_tokens", 9},
                              {"ignore_eos", true},
                              {"stop", "."},
                              {"model", "m"}});
  lines[4998]["body"]["logit_bias"] = {{"1", 2}};
  lines[4997]["body"]["seed"] = -3;
  spill(s.path("in.jsonl"), "\xEF\xBB\xBF" + jsonl(lines) + "\r\n\n");
  EXPECT_EQ(import_batch(s.path("in.jsonl"), s.path("p.h5")).form, PromptForm::text);
  SamplingParams defaults;
  defaults.temperature = 0.9;
  const PromptReader reader(s.path("p.h5"), defaults);
  const std::vector<Prompt> p = reader.read(0, 5000);
  EXPECT_EQ(p[0].params.temperature, 0.9);  // the column came into being behind this row
  EXPECT_FALSE(p[0].params.ignore_eos);
  EXPECT_EQ(p[0].error, "");
  EXPECT_EQ(p[4999].params.temperature, 0.5);
  EXPECT_EQ(p[4999].params.max_tokens, 9);
  EXPECT_TRUE(p[4999].params.ignore_eos);
  EXPECT_EQ(p[4999].params.stop, std::vector<std::string>{"."});
  EXPECT_EQ(p[4999].error, "");
  EXPECT_TRUE(p[4998].error.starts_with("bad_params: logit_bias")) << p[4998].error;
  EXPECT_TRUE(p[4997].error.starts_with("bad_params: seed")) << p[4997].error;
}

void expect_refusal(const std::vector<std::string>& lines, const std::vector<std::string>& parts) {
  const Scratch s;
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  spill(s.path("in.jsonl"), text);
  const std::string message = message_of([&] { import_batch(s.path("in.jsonl"), s.path("p.h5")); });
  for (const std::string& part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << message << "\n wants " << part;
  EXPECT_FALSE(std::filesystem::exists(s.path("p.h5")));
  EXPECT_EQ(
      std::distance(std::filesystem::directory_iterator(s.root()), std::filesystem::directory_iterator()), 1);
}

TEST(Jsonl, BadLinesAreNamedByNumber) {
  const std::string good = completion("a", "x").dump();
  expect_refusal({good, "", good}, {"line 3: custom_id \"a\" is that of line 1"});
  expect_refusal({good, R"({"custom_id": )"}, {"line 2, column 15: is not JSON", "unexpected end of input"});
  expect_refusal({"[1]"}, {"line 1, column 1: is not a JSON object"});
  expect_refusal({std::string(5000, '[')}, {"line 1: is nested too deeply"});
  expect_refusal({"{\"custom_id\": \"\xff\"}"}, {"line 1, column 16: is not JSON"});
  expect_refusal({R"({"url": "/v1/completions", "body": {"prompt": "x"}})"},
                 {"line 1: has no \"custom_id\""});
  expect_refusal({R"({"custom_id": 5, "url": "/v1/completions", "body": {"prompt": "x"}})"},
                 {"\"custom_id\" is number, not a string"});
  expect_refusal({R"({"custom_id": "a", "url": "/v1/embeddings", "body": {}})"},
                 {"url \"/v1/embeddings\" is not supported"});
  expect_refusal({R"({"custom_id": "a", "url": "/v1/completions"})"}, {"has no object \"body\""});
  expect_refusal({R"({"custom_id": "a", "url": "/v1/completions", "body": {}})"}, {"has no \"prompt\""});
  expect_refusal({R"({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": ["x", "y"]}})"},
                 {"give each prompt a line of its own"});
  expect_refusal({R"({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "a\u0000b"}})"},
                 {"\"prompt\" holds U+0000"});
  expect_refusal(
      {R"({"custom_id": "a", "method": "GET", "url": "/v1/completions", "body": {"prompt": "x"}})"},
      {"\"method\" is not POST"});
  expect_refusal({R"({"custom_id": "a", "url": "/v1/chat/completions", "body": {"prompt": "x"}})"},
                 {"has no list \"messages\""});
  expect_refusal({good, R"({"custom_id": "b", "url": "/v1/chat/completions", "body": {"messages": []}})"},
                 {"line 2: url /v1/chat/completions after /v1/completions"});
  expect_refusal({good, completion("b", {1, 2}).dump()}, {"line 2: \"prompt\" as tokens after text"});
  expect_refusal(std::vector<std::string>(30, "x"), {"line 1,", "line 20,", "and more"});
}

TEST(Jsonl, AnEmptyFileGivesAnEmptyInput) {
  const Scratch s;
  spill(s.path("in.jsonl"), "\n");
  EXPECT_EQ(import_batch(s.path("in.jsonl"), s.path("p.h5")).rows, 0u);
  EXPECT_EQ(PromptReader(s.path("p.h5")).rows(), 0u);
}

TEST(Jsonl, FilesFromElsewhereBecomeLines) {
  const Scratch s;
  const std::string path = test::write_text_prompts(s, 3);
  EXPECT_EQ(export_batch(path, s.path("out.jsonl")), 3u);
  EXPECT_EQ(lines_of(s.path("out.jsonl")).at(2), completion("2", "prompt 2"));
}

TEST(Jsonl, ResultsBecomeBatchOutput) {
  const Scratch s;
  std::vector<json> lines;
  for (int i = 0; i < 4; ++i) {
    lines.push_back({{"custom_id", "c" + std::to_string(i)},
                     {"method", "POST"},
                     {"url", "/v1/chat/completions"},
                     {"body", {{"messages", {{{"role", "user"}, {"content", "hi"}}}}}}});
  }
  spill(s.path("in.jsonl"), jsonl(lines));
  import_batch(s.path("in.jsonl"), s.path("p.h5"));
  std::filesystem::create_directory(s.path("j"));
  {
    ResultJournal journal(s.path("j"), 0, 1);
    ResultRecord r;
    r.text = "hello";
    r.finish_reason = FinishReason::stop;
    r.tokens = {5, 6};
    r.logprobs = {-0.5F, -0.25F};
    r.top_k = 1;
    r.top = {{5, -0.5F}, {9, -0.125F}};
    r.prompt_tokens = 7;
    r.cached_tokens = 4;
    journal.append(r);
    r.row = 1, r.samples = 2;
    journal.append(r);
    r.sample = 1, r.finish_reason = FinishReason::length;
    journal.append(r);
    ResultRecord failed;
    failed.row = 2;
    failed.finish_reason = FinishReason::failed;
    failed.error = "too_long: 9000 > 8192 tokens";
    journal.append(failed);
    journal.close();
  }
  write_results(s.path("r.h5"), PromptReader(s.path("p.h5")), JournalIndex(s.path("j"), 1),
                {.partial = true,
                 .logprobs = true,
                 .top_k = 1,
                 .provenance = R"({"job": {"model": {"path": "/m/Tiny"}}, "finished_unix": 12})"});
  EXPECT_EQ(export_results(s.path("r.h5"), s.path("out.jsonl")), 4u);
  const std::vector<json> out = lines_of(s.path("out.jsonl"));
  EXPECT_EQ(
      out[0],
      json::parse(R"({"id": "batch_req_0", "custom_id": "c0", "error": null, "response": {"status_code": 200,
    "request_id": "req_0", "body": {"id": "chatcmpl-0", "object": "chat.completion", "created": 12, "model": "Tiny",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop", "logprobs":
      {"refusal": null, "content": [
        {"token": "token_id:5", "logprob": -0.5, "bytes": null, "top_logprobs": [{"token": "token_id:5", "logprob": -0.5, "bytes": null}]},
        {"token": "token_id:6", "logprob": -0.25, "bytes": null, "top_logprobs": [{"token": "token_id:9", "logprob": -0.125, "bytes": null}]}]}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}}}})"));
  const json& two = out[1]["response"]["body"];
  EXPECT_EQ(two["choices"].size(), 2u);
  EXPECT_EQ(two["choices"][1]["finish_reason"], "length");
  EXPECT_EQ(two["choices"][1]["index"], 1);
  EXPECT_EQ(two["usage"]["completion_tokens"], 4);
  EXPECT_EQ(out[2], json::parse(R"({"id": "batch_req_2", "custom_id": "c2", "response": null,
    "error": {"code": "too_long", "message": "too_long: 9000 > 8192 tokens"}})"));
  EXPECT_EQ(out[3]["error"]["code"], "cancelled");
  EXPECT_NE(
      message_of([&] { export_results(s.path("p.h5"), s.path("x.jsonl")); }).find("not a results/1 file"),
      std::string::npos);
}

}  // namespace
}  // namespace nightshift::io
