// SPDX-License-Identifier: Apache-2.0
#include "core/params.h"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"

namespace nightshift {
namespace {

using nlohmann::json;

constexpr double kUnbounded = 9007199254740992.0;  // 2^53: the largest integer that a double holds exactly

constexpr std::array kInfos{
    ParamInfo{"max_tokens", ParamKind::integer, 1, kUnbounded, "longest answer, in tokens"},
    ParamInfo{"min_tokens", ParamKind::integer, 0, kUnbounded, "no end of sequence before so many tokens"},
    ParamInfo{"temperature", ParamKind::number, 0, 100, "0 = greedy"},
    ParamInfo{"top_p", ParamKind::number, 0, 1, "smallest set of tokens with this much probability"},
    ParamInfo{"top_k", ParamKind::integer, 0, kUnbounded, "the k most likely tokens; 0 = all"},
    ParamInfo{"min_p", ParamKind::number, 0, 1, "tokens at least this likely, relative to the most likely"},
    ParamInfo{"repetition_penalty", ParamKind::number, 1e-3, 100, "over prompt and output; 1 = off"},
    ParamInfo{"presence_penalty", ParamKind::number, -2, 2, "over output"},
    ParamInfo{"frequency_penalty", ParamKind::number, -2, 2, "over output"},
    ParamInfo{"seed", ParamKind::integer, 0, kUnbounded,
              "with the prompt's id and sample it keys the random numbers"},
    ParamInfo{"stop", ParamKind::text_list, 0, 0, "strings that end an answer and are not part of it"},
    ParamInfo{"stop_token_ids", ParamKind::id_list, 0, 0,
              "tokens that end an answer, beside the model's own"},
    ParamInfo{"ignore_eos", ParamKind::boolean, 0, 1, "go on past the model's end of sequence"},
    ParamInfo{"n", ParamKind::integer, 1, 1024, "answers per prompt"},
    ParamInfo{"logprobs", ParamKind::integer, 0, 1024,
              "log-probabilities of the chosen and the k likeliest tokens; 0 = none"},
    ParamInfo{"max_seconds", ParamKind::number, 0, 1e9,
              "longest time in the engine, then it fails (timeout); 0 = none"},
    ParamInfo{"repetition_guard", ParamKind::integer, 0, 1e6,
              "so many copies of one piece in a row end an answer; 0 = off"},
    ParamInfo{"repetition_ngram", ParamKind::integer, 1, 1024, "tokens of the longest such piece"},
};

// What a batch body may hold besides parameters without any effect on the answer.
constexpr std::array<std::string_view, 12> kHarmless{"model",
                                                     "messages",
                                                     "prompt",
                                                     "user",
                                                     "metadata",
                                                     "store",
                                                     "stream",
                                                     "stream_options",
                                                     "service_tier",
                                                     "safety_identifier",
                                                     "chat_template_kwargs",
                                                     "add_generation_prompt"};

[[noreturn]] void bad(std::string_view name, std::string_view why) {
  throw Error(fmt::format("bad_params: {} {}", name, why));
}

const ParamInfo& info_of(std::string_view name) {
  if (const ParamInfo* info = find_sampling_param(name)) return *info;
  std::vector<std::string_view> names;
  for (const ParamInfo& info : kInfos) names.push_back(info.name);
  const std::string_view close = nearest(name, names);
  bad(name, close.empty() ? "is not supported" : fmt::format("is not supported; did you mean {}?", close));
}

void check_number(const ParamInfo& info, double number) {
  if (info.kind == ParamKind::text_list || info.kind == ParamKind::id_list)
    bad(info.name, "takes a list, not a number");
  if (!std::isfinite(number)) bad(info.name, "is not a finite number");
  if (info.kind != ParamKind::number && number != std::floor(number))
    bad(info.name, fmt::format("{} is not an integer", number));
  if (number < info.low) bad(info.name, fmt::format("{} is below {}", number, info.low));
  if (number > info.high) bad(info.name, fmt::format("{} is above {}", number, info.high));
}

void add_stop_text(SamplingParams& params, std::string_view text) {
  if (text.empty()) bad("stop", "holds an empty string");
  params.stop.emplace_back(text);
}

void set_stop(SamplingParams& params, const json& value) {
  params.stop.clear();
  const json list = value.is_array() ? value : json::array({value});
  for (const json& item : list) {
    if (!item.is_string()) bad("stop", "takes a string or a list of strings");
    add_stop_text(params, item.get_ref<const std::string&>());
  }
}

void set_stop_ids(SamplingParams& params, const json& value) {
  if (!value.is_array()) bad("stop_token_ids", "takes a list of token ids");
  params.stop_token_ids.clear();
  for (const json& item : value) {
    if (!item.is_number_integer() || item < 0 || item > std::numeric_limits<TokenId>::max()) {
      bad("stop_token_ids", "takes a list of token ids");
    }
    params.stop_token_ids.push_back(item.get<TokenId>());
  }
}

void set_from_json(SamplingParams& params, std::string_view name, const json& value) {
  const ParamInfo& info = info_of(name);
  if (info.kind == ParamKind::text_list) return set_stop(params, value);
  if (info.kind == ParamKind::id_list) return set_stop_ids(params, value);
  if (value.is_boolean() == (info.kind == ParamKind::boolean) && (value.is_boolean() || value.is_number())) {
    return set_param(params, name,
                     value.is_boolean() ? static_cast<double>(value.get<bool>()) : value.get<double>());
  }
  bad(name, fmt::format("{} is not {}", value.dump(),
                        info.kind == ParamKind::boolean ? "true or false" : "a number"));
}

// OpenAI's two ways of asking for log-probabilities: completions "logprobs": k; chat "logprobs": true,
// "top_logprobs": k.
void set_logprobs(SamplingParams& params, const json& body) {
  const json value = body.value("logprobs", json());
  const json top = body.value("top_logprobs", json());
  if (value.is_boolean()) {
    params.logprobs = value.get<bool>() ? 1 : 0;
  } else if (!value.is_null()) {
    set_from_json(params, "logprobs", value);
  }
  if (!top.is_null() && !(value.is_boolean() && !value.get<bool>())) {
    set_from_json(params, "logprobs", top);
    if (params.logprobs == 0 && value.is_boolean()) params.logprobs = 1;
  }
}

bool is_harmless(std::string_view name, const json& value) {
  if (name == "stream") return value.is_boolean() && !value.get<bool>();
  return std::find(kHarmless.begin(), kHarmless.end(), name) != kHarmless.end();
}

}  // namespace

std::span<const ParamInfo> sampling_param_infos() {
  return kInfos;
}

const ParamInfo* find_sampling_param(std::string_view name) {
  for (const ParamInfo& info : kInfos) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

void set_param(SamplingParams& params, std::string_view name, double number) {
  check_number(info_of(name), number);
  const auto integer = static_cast<std::int64_t>(number);
  if (name == "max_tokens")
    params.max_tokens = integer;
  else if (name == "min_tokens")
    params.min_tokens = integer;
  else if (name == "temperature")
    params.temperature = number;
  else if (name == "top_p")
    params.top_p = number;
  else if (name == "top_k")
    params.top_k = integer;
  else if (name == "min_p")
    params.min_p = number;
  else if (name == "repetition_penalty")
    params.repetition_penalty = number;
  else if (name == "presence_penalty")
    params.presence_penalty = number;
  else if (name == "frequency_penalty")
    params.frequency_penalty = number;
  else if (name == "seed") {
    params.seed = static_cast<std::uint64_t>(integer);
    params.own_seed = true;
  } else if (name == "ignore_eos")
    params.ignore_eos = integer != 0;
  else if (name == "n")
    params.n = integer;
  else if (name == "max_seconds")
    params.max_seconds = number;
  else if (name == "repetition_guard") {
    if (integer == 1) bad(name, "1 would end every answer at once; 2 is the least");
    params.repetition_guard = integer;
  } else if (name == "repetition_ngram")
    params.repetition_ngram = integer;
  else
    params.logprobs = integer;
}

void set_param(SamplingParams& params, std::string_view name, std::string_view text) {
  if (info_of(name).kind != ParamKind::text_list) bad(name, "takes a number, not a text");
  params.stop.clear();
  add_stop_text(params, text);
}

void apply_params_json(SamplingParams& params, std::string_view json_object) {
  const json body = json::parse(json_object, nullptr, false);
  if (!body.is_object()) throw Error("bad_params: not a JSON object");
  for (const auto& [name, value] : body.items()) {
    if (value.is_null() || name == "logprobs" || name == "top_logprobs" || is_harmless(name, value)) continue;
    set_from_json(params,
                  name == "max_completion_tokens" ? std::string_view("max_tokens") : std::string_view(name),
                  value);
  }
  set_logprobs(params, body);
}

std::string params_to_json(const SamplingParams& p) {
  return json{{"max_tokens", p.max_tokens},
              {"min_tokens", p.min_tokens},
              {"temperature", p.temperature},
              {"top_p", p.top_p},
              {"top_k", p.top_k},
              {"min_p", p.min_p},
              {"repetition_penalty", p.repetition_penalty},
              {"presence_penalty", p.presence_penalty},
              {"frequency_penalty", p.frequency_penalty},
              {"seed", p.seed},
              {"stop", p.stop},
              {"stop_token_ids", p.stop_token_ids},
              {"ignore_eos", p.ignore_eos},
              {"n", p.n},
              {"logprobs", p.logprobs},
              {"max_seconds", p.max_seconds},
              {"repetition_guard", p.repetition_guard},
              {"repetition_ngram", p.repetition_ngram}}
      .dump();
}

}  // namespace nightshift
