// SPDX-License-Identifier: Apache-2.0
// Setting sampling parameters by name: from [sampling] in a job file, from /params columns, from a JSON body.
// A wrong name, kind or range throws Error whose text starts with "bad_params: ", ready to become a row's
// reason.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "core/types.h"

namespace nightshift {

enum class ParamKind { integer, number, boolean, text_list, id_list };

struct ParamInfo {
  std::string_view name;
  ParamKind kind;
  double low;  // legal range of a number, both ends included
  double high;
  std::string_view help;
};

// All parameters, in the order of docs/formats.md.
std::span<const ParamInfo> sampling_param_infos();
const ParamInfo* find_sampling_param(std::string_view name);  // nullptr when unknown

void set_param(SamplingParams& params, std::string_view name, double number);
void set_param(SamplingParams& params, std::string_view name, std::string_view text);  // one stop string

// A JSON object with these names or OpenAI's (max_completion_tokens, top_logprobs, stop as string or list
// ...). null means "the default". Names that would change the answer and are not supported are refused, never
// ignored.
void apply_params_json(SamplingParams& params, std::string_view json_object);

// The resolved values as a JSON object with sorted keys, for provenance and for the resume check.
std::string params_to_json(const SamplingParams& params);

}  // namespace nightshift
