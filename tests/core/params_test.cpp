// SPDX-License-Identifier: Apache-2.0
#include "core/params.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/check.h"
#include "core/text.h"

namespace nightshift {
namespace {

std::string refusal(std::string_view json) {
  SamplingParams params;
  try {
    apply_params_json(params, json);
  } catch (const Error& error) {
    return error.what();
  }
  return "(accepted)";
}

TEST(Params, JsonBodyInOpenAiFormIsUnderstood) {
  SamplingParams p;
  apply_params_json(
      p, R"({"model":"m","messages":[],"max_completion_tokens":5,"temperature":1,"stop":"x","stream":false,
                           "logprobs":true,"top_logprobs":3,"n":2,"user":"u","top_p":null,"seed":123456789012})");
  EXPECT_EQ(p.max_tokens, 5);
  EXPECT_EQ(p.temperature, 1.0);
  EXPECT_EQ(p.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(p.logprobs, 3);
  EXPECT_EQ(p.n, 2);
  EXPECT_EQ(p.top_p, 1.0);
  EXPECT_EQ(p.seed, 123456789012u);
}

TEST(Params, LogprobsInBothForms) {
  SamplingParams p;
  apply_params_json(p, R"({"logprobs":4})");
  EXPECT_EQ(p.logprobs, 4);
  apply_params_json(p, R"({"logprobs":false})");
  EXPECT_EQ(p.logprobs, 0);
  apply_params_json(p, R"({"logprobs":true,"top_logprobs":0})");
  EXPECT_EQ(p.logprobs, 1);
}

TEST(Params, WhatIsWrongIsNamed) {
  EXPECT_EQ(refusal(R"({"temperature":-1})"), "bad_params: temperature -1 is below 0");
  EXPECT_EQ(refusal(R"({"temperature":"hot"})"), "bad_params: temperature \"hot\" is not a number");
  EXPECT_EQ(refusal(R"({"max_tokens":2.5})"), "bad_params: max_tokens 2.5 is not an integer");
  EXPECT_EQ(refusal(R"({"tempature":1})"),
            "bad_params: tempature is not supported; did you mean temperature?");
  EXPECT_EQ(refusal(R"({"response_format":{}})"), "bad_params: response_format is not supported");
  EXPECT_EQ(refusal(R"({"stream":true})"), "bad_params: stream is not supported");
  EXPECT_EQ(refusal(R"({"stop":[1]})"), "bad_params: stop takes a string or a list of strings");
  EXPECT_EQ(refusal(R"({"stop":""})"), "bad_params: stop holds an empty string");
  EXPECT_EQ(refusal(R"({"stop_token_ids":[-1]})"), "bad_params: stop_token_ids takes a list of token ids");
  EXPECT_EQ(refusal(R"({"n":0})"), "bad_params: n 0 is below 1");
  EXPECT_EQ(refusal("[1]"), "bad_params: not a JSON object");
  EXPECT_EQ(refusal("{"), "bad_params: not a JSON object");
}

TEST(Params, ColumnValuesAreChecked) {
  SamplingParams p;
  set_param(p, "top_k", 40.0);
  set_param(p, "stop", std::string_view("END"));
  EXPECT_EQ(p.top_k, 40);
  EXPECT_EQ(p.stop, std::vector<std::string>{"END"});
  EXPECT_THROW(set_param(p, "top_k", 1.5), Error);
  EXPECT_THROW(set_param(p, "top_k", std::nan("")), Error);
  EXPECT_THROW(set_param(p, "stop", 1.0), Error);
  EXPECT_THROW(set_param(p, "top_k", std::string_view("x")), Error);
  EXPECT_THROW(set_param(p, "frequency_penalty", 2.5), Error);
}

TEST(Params, EveryParameterCanBeSetByNameAndPrinted) {
  for (const ParamInfo& info : sampling_param_infos()) {
    EXPECT_NE(params_to_json(SamplingParams{}).find(fmt::format("\"{}\":", info.name)), std::string::npos)
        << info.name;
    if (info.kind == ParamKind::text_list || info.kind == ParamKind::id_list) continue;
    SamplingParams p;
    const double value = info.kind == ParamKind::number ? 0.5 : info.kind == ParamKind::integer ? 2.0 : 1.0;
    set_param(p, info.name, value);
    SamplingParams q;
    apply_params_json(q, params_to_json(p));
    EXPECT_EQ(params_to_json(q), params_to_json(p)) << info.name;
  }
}

TEST(Params, AGuardThatEndsEveryAnswerIsRefused) {
  EXPECT_EQ(refusal(R"({"repetition_guard":1})"),
            "bad_params: repetition_guard 1 would end every answer at once; 2 is the least");
  EXPECT_EQ(refusal(R"({"repetition_guard":2,"repetition_ngram":0})"),
            "bad_params: repetition_ngram 0 is below 1");
  EXPECT_EQ(refusal(R"({"max_seconds":-1})"), "bad_params: max_seconds -1 is below 0");
}

TEST(Text, BytesCountsDurations) {
  EXPECT_EQ(parse_bytes("12 GiB"), 12884901888u);
  EXPECT_EQ(parse_bytes("4096"), 4096u);
  EXPECT_THROW(parse_bytes("12 furlongs"), BadInput);
  EXPECT_THROW(parse_bytes("-1"), BadInput);
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_count(12345), "12,345");
  EXPECT_EQ(format_count(-1000), "-1,000");
  EXPECT_EQ(format_count(2.5e9), "2.50 G");
  EXPECT_EQ(format_duration(75), "1 min 15 s");
  EXPECT_EQ(format_duration(7500), "2 h 05 min");
}

TEST(Bf16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(bf16(1.0F).bits, 0x3f80);
  EXPECT_EQ(bf16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // tie to even
  EXPECT_EQ(bf16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);
  EXPECT_EQ(bf16(std::bit_cast<float>(0x7f7fffffu)).bits, 0x7f80);  // overflows to infinity
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::nanf("")))));
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace nightshift
