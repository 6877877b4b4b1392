// SPDX-License-Identifier: Apache-2.0
#include "io/prompt_params.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "io/text_checks.h"

namespace nightshift::io {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kLongestError = 500;  // bytes; an error may quote the value that caused it
constexpr const char* kJsonColumn = "json";

// What a chat template reads beside the messages; it travels to the renderer as it is.
constexpr std::array<const char*, 4> kTemplateKeys{"chat_template_kwargs", "tools", "documents",
                                                   "add_generation_prompt"};

bool takes_text(const ParamInfo& info) {
  return info.kind == ParamKind::text_list || info.kind == ParamKind::id_list;
}

bool is_default(const ParamInfo& info, double cell) {
  return std::isnan(cell) || (cell == -1.0 && info.kind != ParamKind::number);
}

void set_error(Prompt& prompt, std::string reason) {
  if (!prompt.error.empty()) return;
  if (reason.size() > kLongestError) reason = reason.substr(0, kLongestError) + "...";
  prompt.error = storable_text(reason);
}

// Runs one assignment; what it throws becomes the row's error.
template <class Assign>
void guarded(Prompt& prompt, const Assign& assign) {
  try {
    assign();
  } catch (const Error& error) {
    set_error(prompt, error.summary());
  } catch (const std::exception& error) {
    set_error(prompt, fmt::format("bad_params: {}", error.what()));
  }
}

const ParamInfo& known_param(const std::string& file, const std::string& name) {
  if (const ParamInfo* info = find_sampling_param(name)) return *info;
  std::vector<std::string_view> names{kJsonColumn};
  for (const ParamInfo& info : sampling_param_infos()) names.push_back(info.name);
  const std::string_view close = nearest(name, names);
  throw BadInput(fmt::format("{}: /params/{} is not a parameter{}", file, name,
                             close.empty() ? "" : fmt::format("; did you mean /params/{}?", close)),
                 fmt::format("legal columns: {}", fmt::join(names, ", ")));
}

void check_column(const std::string& file, const h5::Dataset& data, std::uint64_t rows, bool text) {
  const h5::DatasetInfo& info = data.info();
  if (!info.is_column() || info.rows() != rows) {
    throw BadInput(fmt::format("{}: {} has shape [{}]", file, data.name(), fmt::join(info.shape, ", ")),
                   fmt::format("it needs one value per prompt: [{}]", rows));
  }
  const bool fits =
      text ? info.type == h5::TypeClass::string : info.is_number() || info.type == h5::TypeClass::enumeration;
  if (!fits) {
    throw BadInput(fmt::format("{}: {} holds {}", file, data.name(), info.type_name),
                   text ? "it needs strings" : "it needs numbers or booleans");
  }
}

void apply_text_cell(const ParamInfo& info, const std::string& cell, SamplingParams& params) {
  if (info.kind == ParamKind::text_list && cell.front() != '[')
    return set_param(params, info.name, std::string_view(cell));
  if (nests_deeper(cell, 2)) throw Error(fmt::format("bad_params: {} takes a flat JSON list", info.name));
  const ordered_json list = ordered_json::parse(cell, nullptr, false);
  if (!list.is_array()) throw Error(fmt::format("bad_params: {} is not a JSON list: {}", info.name, cell));
  apply_params_json(params, ordered_json{{std::string(info.name), list}}.dump());
}

// Takes the template's keys out of a row's JSON; tool_choice "auto" is what templates do anyway.
void split_template_keys(ordered_json& body, Prompt& prompt) {
  ordered_json extra = ordered_json::object();
  for (const char* key : kTemplateKeys) {
    const auto it = body.find(key);
    if (it == body.end()) continue;
    if (!it->is_null()) extra[key] = *it;
    body.erase(it);
  }
  if (const auto choice = body.find("tool_choice"); choice != body.end() && *choice == "auto")
    body.erase(choice);
  if (!extra.empty()) prompt.extra_json = extra.dump();
}

void apply_json_cell(const std::string& cell, Prompt& prompt) {
  if (nests_deeper(cell, kMaxJsonDepth)) throw Error("bad_params: /params/json is nested too deeply");
  ordered_json body = ordered_json::parse(cell, nullptr, false);
  if (!body.is_object()) throw Error("bad_params: /params/json is not a JSON object");
  if (prompt.form == PromptForm::messages) split_template_keys(body, prompt);
  apply_params_json(prompt.params, body.dump());
}

}  // namespace

ParamColumns::ParamColumns(const h5::File& file, std::uint64_t rows) {
  for (const std::string& name : file.children("/params")) {
    const bool is_json = name == kJsonColumn;
    const ParamInfo* info = is_json ? nullptr : &known_param(file.path(), name);
    h5::Dataset data = file.dataset("/params/" + name);
    check_column(file.path(), data, rows, is_json || takes_text(*info));
    if (is_json) {
      json_ = std::move(data);
    } else {
      columns_.push_back({info, std::move(data)});
    }
  }
}

void ParamColumns::apply(PromptRow first, std::span<Prompt> prompts) const {
  for (const Column& column : columns_) {
    if (takes_text(*column.info)) {
      apply_texts(column, first, prompts);
    } else {
      apply_numbers(column, first, prompts);
    }
  }
  if (json_) apply_json(first, prompts);
}

void ParamColumns::apply_numbers(const Column& column, PromptRow first, std::span<Prompt> prompts) const {
  std::vector<double> cells(prompts.size());
  column.data.read(first, cells.size(), cells.data());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (is_default(*column.info, cells[i])) continue;
    guarded(prompts[i], [&] { set_param(prompts[i].params, column.info->name, cells[i]); });
  }
}

void ParamColumns::apply_texts(const Column& column, PromptRow first, std::span<Prompt> prompts) const {
  const std::vector<std::string> cells = column.data.read_strings(first, prompts.size());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (cells[i].empty()) continue;
    if (const auto bad = invalid_utf8(cells[i])) {
      set_error(prompts[i], fmt::format("invalid_utf8: {}, byte {}", column.data.name(), *bad));
      continue;
    }
    guarded(prompts[i], [&] { apply_text_cell(*column.info, cells[i], prompts[i].params); });
  }
}

void ParamColumns::apply_json(PromptRow first, std::span<Prompt> prompts) const {
  const std::vector<std::string> cells = json_->read_strings(first, prompts.size());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (cells[i].empty()) continue;
    guarded(prompts[i], [&] { apply_json_cell(cells[i], prompts[i]); });
  }
}

bool ParamColumns::has_max_tokens() const {
  for (const Column& column : columns_) {
    if (column.info->name == "max_tokens") return true;
  }
  return false;
}

std::vector<std::uint64_t> ParamColumns::max_tokens(PromptRow first, std::uint64_t count,
                                                    std::int64_t standard) const {
  std::vector<std::uint64_t> tokens(count, 0);
  for (const Column& column : columns_) {
    if (column.info->name != "max_tokens") continue;
    std::vector<double> cells(count);
    column.data.read(first, count, cells.data());
    for (std::size_t i = 0; i < count; ++i) {
      const double cell = is_default(*column.info, cells[i]) ? static_cast<double>(standard) : cells[i];
      tokens[i] = static_cast<std::uint64_t>(std::clamp(cell, 0.0, column.info->high));
    }
  }
  return tokens;
}

}  // namespace nightshift::io
