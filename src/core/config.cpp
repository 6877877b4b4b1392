// SPDX-License-Identifier: Apache-2.0
#include "core/config.h"

#include <unistd.h>

#include <toml++/toml.h>
#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/check.h"
#include "core/params.h"
#include "core/text.h"

namespace nightshift {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// What a key may hold beyond its type.
struct Legal {
  double low = -1e300;
  double high = 1e300;
  std::vector<std::string_view> choices;
};

// THE table of keys. `v(section, key, field, legal, help)`; every reader and printer below is a visitor over
// it.
template <class JobT, class Visitor>
void visit_keys(JobT& job, Visitor&& v) {
  const Legal any;
  const Legal count{1, 1e6, {}};
  const Legal tokens{1, 1e9, {}};
  v("job", "name", job.job.name, any, "name in reports; default: the job file's name");
  v("job", "input", job.job.input, any, "prompts: HDF5 (.h5) or OpenAI batch lines (.jsonl)");
  v("job", "output", job.job.output, any, "answers: HDF5 (.h5)");
  v("job", "max_failed", job.job.max_failed, Legal{0, 1, {}},
    "share of prompts that may fail before exit code 3");
  v("job", "max_answer_tokens", job.job.max_answer_tokens, tokens,
    "no answer is longer, whatever its prompt asks for; auto: no bound");
  v("model", "path", job.model.path, any, "Hugging Face model directory");
  v("model", "dtype", job.model.dtype, Legal{0, 0, {"bf16"}}, "type of the weights in memory");
  v("model", "chat_template", job.model.chat_template, any, "auto (the model's own), none, or a Jinja file");
  v("model", "max_context", job.model.max_context, tokens, "tokens; longer prompts become failed rows");
  v("parallel", "replicas", job.parallel.replicas, count,
    "data-parallel copies of the model; auto: ranks / (sequence * tensor)");
  v("parallel", "sequence", job.parallel.sequence, count,
    "ranks of a replica that share the tokens of a step; auto: 1");
  v("parallel", "tensor", job.parallel.tensor, count,
    "ranks of a replica that share the weights in the base layout; auto: 1");
  v("parallel", "shift", job.parallel.shift, any,
    "steps in full tensor parallelism: auto, never, always, or up to a token count (random:SEED: for tests)");
  v("parallel", "transport", job.parallel.transport, Legal{0, 0, {"auto", "nccl", "mpi"}},
    "between GPUs: auto (NCCL where every rank has a GPU of its own), nccl, or mpi through host memory");
  v("schedule", "token_budget", job.schedule.token_budget, tokens, "query tokens per step");
  v("schedule", "max_sequences", job.schedule.max_sequences, count,
    "sequences running at once, per replica; auto: 256 on CPUs, 1024 on GPUs");
  v("schedule", "kv_memory", job.schedule.kv_memory, any,
    "KV cache per rank, e.g. \"12GiB\"; auto: half of what is free, nearly all on GPUs");
  v("schedule", "prefix_cache", job.schedule.prefix_cache, any,
    "reuse the KV blocks of equal prompt beginnings");
  v("run", "device", job.run.device, Legal{0, 0, {"auto", "cpu", "cuda"}},
    "where the model runs; auto: on GPUs where there are any");
  v("run", "threads", job.run.threads, count, "compute threads per rank");
  v("run", "numerics", job.run.numerics, Legal{0, 0, {"auto", "strict", "fast"}},
    "strict: bytes do not depend on company, ranks and layout; fast: GPU, same bytes for the same ranks "
    "only; auto: strict");
  v("run", "kernels", job.run.kernels, Legal{0, 0, {"auto", "portable", "avx512_bf16", "cuda", "cuda_fast"}},
    "one kernel set for all ranks");
  v("run", "checkpoint_seconds", job.run.checkpoint_seconds, Legal{0, 1e9, {}},
    "running answers are saved so often; 0: only when the job is stopped");
  v("run", "stop_before_end_seconds", job.run.stop_before_end_seconds, Legal{0, 1e9, {}},
    "save running answers and stop so long before the allocation ends");
  v("run", "max_restarts", job.run.max_restarts, Legal{0, 1e6, {}},
    "restarts of the ranks after failures, in a row without a new answer; 0: the first failure ends the job");
  v("run", "hang_seconds", job.run.hang_seconds, Legal{0, 1e9, {}},
    "a rank that gets nowhere for so long counts as failed; 0: wait for ever");
  v("run", "crash_tries", job.run.crash_tries, Legal{0, 1e6, {}},
    "a prompt that was in work at so many failures, at the last one alone, becomes a failed row; 0: never");
  v("run", "trace", job.run.trace, any,
    "a .json file for what every rank did when (Chrome trace, Perfetto); empty: none");
}

std::string place(const fs::path& file, const toml::node* node) {
  if (node == nullptr || node->source().begin.line == 0) return file.string();
  return fmt::format("{}:{}", file.string(), node->source().begin.line);
}

std::string shown(const toml::node& node) {
  std::ostringstream out;
  node.visit([&out](const auto& value) { out << value; });
  return out.str();
}

// Turns one TOML value into a field, or says what would be legal.
class Reader {
 public:
  Reader(fs::path where, std::string key, const toml::node& node, fs::path base)
      : where_(std::move(where)), key_(std::move(key)), node_(node), base_(std::move(base)) {}

  void read(std::string& field, const Legal& legal) const {
    const auto value = node_.value_exact<std::string>();
    const auto number = node_.value<std::int64_t>();
    if (!value && !(number && key_ == "parallel.shift")) refuse("a string");
    const std::string text = value ? *value : std::to_string(*number);
    const auto& choices = legal.choices;
    if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end()) {
      refuse(fmt::format("one of {}", fmt::join(choices, ", ")));
    }
    const bool file = key_ == "model.chat_template" && text != "auto" && text != "none";
    field = file ? (base_ / text).lexically_normal().string() : text;
  }
  void read(fs::path& field, const Legal&) const {
    const auto value = node_.value_exact<std::string>();
    if (!value) refuse("a path, as a string");
    field = value->empty() ? fs::path() : (base_ / *value).lexically_normal();
  }
  void read(bool& field, const Legal&) const {
    const auto value = node_.value_exact<bool>();
    if (!value) refuse("true or false");
    field = *value;
  }
  void read(double& field, const Legal& legal) const {
    const auto value = node_.value<double>();
    if (!value || !node_.is_number() || !(*value >= legal.low && *value <= legal.high))
      refuse_range(legal, "a number");
    field = *value;
  }
  void read(std::int64_t& field, const Legal& legal) const {
    const auto value = node_.value_exact<std::int64_t>();
    if (!value || static_cast<double>(*value) < legal.low || static_cast<double>(*value) > legal.high) {
      refuse_range(legal, "an integer");
    }
    field = *value;
  }
  void read(Auto<std::int64_t>& field, const Legal& legal) const {
    if (is_auto()) return field.reset();
    std::int64_t value = 0;
    read(value, legal);
    field = value;
  }
  void read(Auto<ByteCount>& field, const Legal&) const {
    if (is_auto()) return field.reset();
    const auto text = node_.value_exact<std::string>();
    const auto number = node_.value_exact<std::int64_t>();
    if (!text && !number) refuse("an amount of memory such as \"12GiB\", or \"auto\"");
    try {
      field = ByteCount{parse_bytes(text ? *text : std::to_string(*number))};
    } catch (const BadInput&) {
      refuse("an amount of memory such as \"12GiB\", or \"auto\"");
    }
  }

  [[noreturn]] void refuse(std::string_view wanted) const {
    throw BadInput(fmt::format("{}: {} is {}", place(where_, &node_), key_, shown(node_)),
                   fmt::format("it takes {}", wanted));
  }

 private:
  bool is_auto() const { return node_.value_exact<std::string>() == "auto"; }
  [[noreturn]] void refuse_range(const Legal& legal, std::string_view kind) const {
    std::string wanted(kind);
    if (legal.low > -1e300) wanted += fmt::format(" from {:.15g}", legal.low);
    if (legal.high < 1e15) wanted += fmt::format(" up to {:.15g}", legal.high);
    refuse(wanted);
  }

  fs::path where_;
  std::string key_;
  const toml::node& node_;
  fs::path base_;
};

std::vector<std::string> known_names(std::string_view section) {  // "" for the sections themselves
  std::vector<std::string> names;
  const auto note = [&](std::string_view name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.emplace_back(name);
  };
  Job job;
  visit_keys(job, [&](std::string_view in, std::string_view key, const auto&...) {
    if (section.empty()) note(in);
    if (in == section) note(key);
  });
  if (section.empty()) note("sampling");
  if (section == "sampling") {
    for (const ParamInfo& info : sampling_param_infos()) note(info.name);
  }
  return names;
}

[[noreturn]] void refuse_unknown(const fs::path& file, const toml::node& node, std::string_view section,
                                 std::string_view name) {
  const std::vector<std::string> names = known_names(section);
  const std::vector<std::string_view> views(names.begin(), names.end());
  const std::string_view close = nearest(name, views);
  const std::string what = section.empty() ? fmt::format("[{}]", name) : fmt::format("{}.{}", section, name);
  const std::string hint = close.empty() ? "" : fmt::format("did you mean {}? ", close);
  throw BadInput(fmt::format("{}: unknown key {}", place(file, &node), what),
                 fmt::format("{}known here: {}", hint, fmt::join(names, ", ")));
}

json to_json(const toml::node& node) {
  if (const auto* list = node.as_array()) {
    json out = json::array();
    for (const toml::node& item : *list) out.push_back(to_json(item));
    return out;
  }
  if (const auto v = node.value_exact<std::string>()) return *v;
  if (const auto v = node.value_exact<bool>()) return *v;
  if (const auto v = node.value_exact<std::int64_t>()) return *v;
  if (const auto v = node.value_exact<double>()) return *v;
  return nullptr;
}

void read_sampling(SamplingParams& params, const fs::path& file, const std::string& name,
                   const toml::node& node) {
  if (find_sampling_param(name) == nullptr) refuse_unknown(file, node, "sampling", name);
  try {
    apply_params_json(params, json{{name, to_json(node)}}.dump());
  } catch (const Error& error) {
    std::string_view why = error.summary();
    why.remove_prefix(std::string_view("bad_params: ").size());
    throw BadInput(fmt::format("{}: sampling.{}", place(file, &node), why),
                   find_sampling_param(name)->help.data());
  }
}

void read_key(Job& job, const fs::path& file, const fs::path& base, const std::string& section,
              const std::string& name, const toml::node& node) {
  if (section == "sampling") return read_sampling(job.sampling, file, name, node);
  bool found = false;
  visit_keys(job,
             [&](std::string_view in, std::string_view key, auto&& field, const Legal& legal, const auto&) {
               if (in != section || key != name) return;
               found = true;
               Reader(file, section + "." + name, node, base).read(field, legal);
             });
  if (!found) refuse_unknown(file, node, section, name);
}

void read_document(Job& job, const toml::table& document, const fs::path& file, const fs::path& base) {
  for (const auto& [section, node] : document) {
    const std::vector<std::string> sections = known_names("");
    const std::string name(section.str());
    if (std::find(sections.begin(), sections.end(), name) == sections.end())
      refuse_unknown(file, node, "", name);
    const toml::table* table = node.as_table();
    if (table == nullptr)
      throw BadInput(fmt::format("{}: {} is not a section", place(file, &node), name),
                     fmt::format("write [{}] and its keys below", name));
    for (const auto& [key, value] : *table) read_key(job, file, base, name, std::string(key.str()), value);
  }
}

// An override's value is TOML; a bare word counts as a string, so that --set run.device=cpu needs no quotes.
void apply_override(Job& job, const std::string& text) {
  if (const auto bad = invalid_utf8(text))  // as in job files: reports and job.json cannot hold it
    throw BadInput(fmt::format("--set {}...: not UTF-8 at byte {}", text.substr(0, *bad), *bad),
                   "write it in UTF-8; files whose names are not UTF-8 need a link with another name");
  const auto equals = text.find('=');
  const auto dot = text.find('.');
  if (equals == std::string::npos || dot == std::string::npos || dot > equals) {
    throw BadInput(fmt::format("--set {}: not of the form section.key=value", text),
                   "for example --set sampling.max_tokens=64");
  }
  const std::string section = text.substr(0, dot);
  const std::string key = text.substr(dot + 1, equals - dot - 1);
  const std::string value = text.substr(equals + 1);
  toml::table table;
  try {
    table = toml::parse("value = " + value);
  } catch (const toml::parse_error&) {
    table.insert_or_assign("value", value);
  }
  const std::vector<std::string> sections = known_names("");
  const fs::path where = "--set " + section + "." + key;
  if (std::find(sections.begin(), sections.end(), section) == sections.end())
    refuse_unknown(where, table, "", section);
  read_key(job, where, fs::current_path(), section, key, *table.get("value"));
}

void require(const Job& job, const fs::path& field, std::string_view key) {
  if (!field.empty()) return;
  throw BadInput(fmt::format("{}: {} is missing", job.file.string(), key),
                 "it has no default; name it in the job file");
}

bool is_number(std::string_view text, std::size_t most_digits) {
  return !text.empty() && text.size() <= most_digits &&
         text.find_first_not_of("0123456789") == std::string_view::npos;
}

bool is_shift_setting(std::string_view text) {
  constexpr std::string_view kRandom = "random:";
  if (text.starts_with(kRandom)) return is_number(text.substr(kRandom.size()), 18);
  return text == "auto" || text == "never" || text == "always" || is_number(text, 9);
}

void check_job(const Job& job) {
  require(job, job.job.input, "job.input");
  require(job, job.job.output, "job.output");
  require(job, job.model.path, "model.path");
  if (job.job.input == job.job.output) {
    throw BadInput(fmt::format("{}: job.input and job.output are the same file", job.file.string()),
                   "name another output");
  }
  if (!is_shift_setting(job.parallel.shift)) {
    throw BadInput(fmt::format("{}: parallel.shift is \"{}\"", job.file.string(), job.parallel.shift),
                   "it takes auto, never, always, or a token count up to 999999999");
  }
  if (!job.run.trace.empty() && job.run.trace.extension() != ".json") {
    throw BadInput(fmt::format("{}: run.trace is {}", job.file.string(), job.run.trace.string()),
                   "name a .json file, e.g. trace.json");
  }
}

}  // namespace

fs::path Job::output_sibling(const char* suffix) const {
  fs::path path = job.output;
  path += suffix;
  return path;
}

Job load_job(const fs::path& file, const std::vector<std::string>& overrides) {
  if (!fs::is_regular_file(file)) {
    throw BadInput(fmt::format("no job file {}", file.string()),
                   "name a TOML job file; jobs/quickstart.toml is one");
  }
  toml::table document;
  try {
    document = toml::parse_file(file.string());
  } catch (const toml::parse_error& error) {
    throw BadInput(fmt::format("{}:{}:{}: {}", file.string(), error.source().begin.line,
                               error.source().begin.column, error.description()),
                   "the file is not valid TOML");
  }
  Job job;
  job.file = fs::absolute(file).lexically_normal();
  read_document(job, document, file, job.file.parent_path());
  for (const std::string& text : overrides) apply_override(job, text);
  if (job.job.name.empty()) job.job.name = file.stem().string();
  job.sampling.own_seed = false;  // a job's seed is a default, not a prompt's own
  check_job(job);
  return job;
}

namespace {

json json_of(const std::string& value) {
  return value;
}
json json_of(const fs::path& value) {
  return value.string();
}
json json_of(bool value) {
  return value;
}
json json_of(double value) {
  return value;
}
json json_of(std::int64_t value) {
  return value;
}
json json_of(const Auto<std::int64_t>& value) {
  return value ? json(*value) : json("auto");
}
json json_of(const Auto<ByteCount>& value) {
  return value ? json(value->value) : json("auto");
}

void from_json_value(const json& j, std::string& field) {
  field = j.get<std::string>();
}
void from_json_value(const json& j, fs::path& field) {
  field = j.get<std::string>();
}
void from_json_value(const json& j, bool& field) {
  field = j.get<bool>();
}
void from_json_value(const json& j, double& field) {
  field = j.get<double>();
}
void from_json_value(const json& j, std::int64_t& field) {
  field = j.get<std::int64_t>();
}
void from_json_value(const json& j, Auto<std::int64_t>& field) {
  field = j.is_string() ? Auto<std::int64_t>() : Auto<std::int64_t>(j.get<std::int64_t>());
}
void from_json_value(const json& j, Auto<ByteCount>& field) {
  field = j.is_string() ? Auto<ByteCount>() : Auto<ByteCount>(ByteCount{j.get<std::uint64_t>()});
}

}  // namespace

std::string job_to_json(const Job& job) {
  json out;
  visit_keys(job, [&](const char* section, const char* key, const auto& field, const auto&...) {
    out[section][key] = json_of(field);
  });
  out["sampling"] = json::parse(params_to_json(job.sampling));
  out["file"] = job.file.string();
  return out.dump();
}

Job job_from_json(std::string_view text) {
  if (nests_deeper(text, kMaxJsonDepth)) throw Error("the resolved job is nested too deeply");
  const json in = json::parse(text);
  Job job;
  visit_keys(job, [&](const char* section, const char* key, auto&& field, const auto&...) {
    from_json_value(in.at(section).at(key), field);
  });
  apply_params_json(job.sampling, in.at("sampling").dump());
  job.sampling.own_seed = false;
  job.file = in.at("file").get<std::string>();
  return job;
}

std::string job_to_toml(const Job& job) {
  const json values = json::parse(job_to_json(job));
  std::string out;
  for (const char* section : {"job", "model", "parallel", "schedule", "sampling", "run"}) {
    out += fmt::format("[{}]\n", section);
    for (const std::string& key : known_names(section))
      out += fmt::format("{} = {}\n", key, values[section][key].dump());
    out += "\n";
  }
  return out;
}

namespace {

std::string kind_of(const std::string&, const Legal& legal) {
  return legal.choices.empty() ? "string" : fmt::format("{}", fmt::join(legal.choices, " | "));
}
std::string kind_of(const fs::path&, const Legal&) {
  return "path";
}
std::string kind_of(bool, const Legal&) {
  return "true | false";
}
std::string kind_of(double, const Legal&) {
  return "number";
}
std::string kind_of(std::int64_t, const Legal&) {
  return "integer";
}
std::string kind_of(const Auto<std::int64_t>&, const Legal&) {
  return "auto | integer";
}
std::string kind_of(const Auto<ByteCount>&, const Legal&) {
  return "auto | memory";
}

std::string kind_of(const ParamInfo& info) {
  switch (info.kind) {
    case ParamKind::integer:
      return "integer";
    case ParamKind::number:
      return "number";
    case ParamKind::boolean:
      return "true | false";
    case ParamKind::text_list:
      return "list of strings";
    case ParamKind::id_list:
      return "list of token ids";
  }
  return {};
}

}  // namespace

std::vector<JobKey> job_keys() {
  std::vector<JobKey> keys;
  const Job defaults;
  visit_keys(defaults, [&](const char* section, const char* key, const auto& field, const Legal& legal,
                           const char* help) {
    keys.push_back({section, key, kind_of(field, legal), json_of(field).dump(), help});
  });
  const json sampling = json::parse(params_to_json(defaults.sampling));
  for (const ParamInfo& info : sampling_param_infos()) {
    const std::string name(info.name);
    keys.push_back({"sampling", name, kind_of(info), sampling[name].dump(), std::string(info.help)});
  }
  return keys;
}

}  // namespace nightshift
