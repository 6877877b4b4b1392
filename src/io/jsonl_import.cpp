// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <limits>
#include <map>

#include "core/params.h"
#include "io/hdf5.h"
#include "io/jsonl.h"
#include "io/jsonl_lines.h"
#include "io/text_checks.h"
#include "io/unique_ids.h"

namespace nightshift::io {
namespace {

constexpr std::size_t kProblemsShown = 20;
constexpr std::size_t kRowsPerWrite = 4096;
constexpr std::size_t kBytesPerWrite = 64u << 20;
constexpr double kExactIntegers = 9007199254740992.0;  // 2^53

// What is wrong with one line, and where it begins (1-based; 0: the line as a whole).
struct LineProblem {
  std::size_t column;
  std::string text;
};

struct BatchLine {
  std::string id;
  PromptForm form = PromptForm::text;
  std::string text;
  std::vector<std::int32_t> tokens;
  std::map<std::string, double> params;  // fields that have a column
  Json rest = Json::object();            // fields that bear on the answer otherwise
  Json extra = Json::object();
};

const std::string& required_text(const Json& object, const char* name) {
  const auto it = object.find(name);
  if (it == object.end()) throw LineProblem{0, fmt::format("has no \"{}\"", name)};
  if (!it->is_string())
    throw LineProblem{0, fmt::format("\"{}\" is {}, not a string", name, it->type_name())};
  const std::string& text = it->get_ref<const std::string&>();
  if (text.find('\0') != std::string::npos) throw LineProblem{0, fmt::format("\"{}\" holds U+0000", name)};
  return text;
}

void take_tokens(const Json& list, BatchLine& line) {
  for (const Json& item : list) {
    if (!item.is_number_integer() || item < 0 || item > std::numeric_limits<std::int32_t>::max()) {
      throw LineProblem{0, "\"prompt\" is a list, but not of token ids; give each prompt a line of its own"};
    }
    line.tokens.push_back(item.get<std::int32_t>());
  }
}

void take_prompt(const std::string& url, const Json& body, BatchLine& line) {
  if (url == kChatUrl) {
    const auto messages = body.find("messages");
    if (messages == body.end() || !messages->is_array())
      throw LineProblem{0, "\"body\" has no list \"messages\""};
    line.form = PromptForm::messages;
    line.text = messages->dump();
  } else if (const auto prompt = body.find("prompt"); prompt != body.end() && prompt->is_array()) {
    line.form = PromptForm::tokens;
    take_tokens(*prompt, line);
  } else {
    line.text = required_text(body, "prompt");
  }
}

// Whether a column holds this value without changing it; other values stay JSON, and fail when the row runs.
bool fits_column(const ParamInfo& info, const Json& value) {
  if (info.kind == ParamKind::boolean) return value.is_boolean();
  if (info.kind == ParamKind::number)
    return value.is_number() && std::abs(value.get<double>()) <= kExactIntegers;
  return info.kind == ParamKind::integer && value.is_number_integer() && value >= 0 &&
         value <= kExactIntegers;
}

void take_body_field(const std::string& name, const Json& value, BatchLine& line) {
  const ParamInfo* info = find_sampling_param(name);
  if (info != nullptr && fits_column(*info, value)) {
    line.params[name] = value.is_boolean() ? static_cast<double>(value.get<bool>()) : value.get<double>();
    return;
  }
  const bool aside =
      std::find(kBesideTheAnswer.begin(), kBesideTheAnswer.end(), name) != kBesideTheAnswer.end();
  if (aside || (name == "stream" && value == false)) {
    line.extra["body"][name] = value;
  } else {
    line.rest[name] = value;
  }
}

Json parse_line(const std::string& text) {
  if (nests_deeper(text, kMaxJsonDepth)) throw LineProblem{0, "is nested too deeply"};
  try {
    Json json = Json::parse(text);
    if (!json.is_object()) throw LineProblem{1, "is not a JSON object"};
    return json;
  } catch (const Json::parse_error& error) {
    const std::string_view what = error.what();
    const std::size_t detail = what.rfind(": ");
    throw LineProblem{error.byte,
                      "is not JSON: " + std::string(detail == what.npos ? what : what.substr(detail + 2))};
  } catch (const Json::out_of_range&) {
    throw LineProblem{0, "holds a number beyond what a double can hold"};
  }
}

BatchLine read_line(const std::string& text, std::string& expected_url) {
  const Json json = parse_line(text);
  BatchLine line;
  line.id = required_text(json, "custom_id");
  const std::string& url = required_text(json, "url");
  if (url != kChatUrl && url != kTextUrl) {
    throw LineProblem{0, fmt::format("url \"{}\" is not supported; use {} or {}", url, kChatUrl, kTextUrl)};
  }
  if (expected_url.empty()) expected_url = url;
  if (url != expected_url)
    throw LineProblem{0, fmt::format("url {} after {}: one file holds one kind", url, expected_url)};
  if (const auto method = json.find("method"); method != json.end() && *method != "POST")
    throw LineProblem{0, "\"method\" is not POST"};
  const auto body = json.find("body");
  if (body == json.end() || !body->is_object()) throw LineProblem{0, "has no object \"body\""};
  take_prompt(url, *body, line);
  const char* prompt_field = url == kChatUrl ? "messages" : "prompt";
  for (const auto& [name, value] : body->items()) {
    if (name != prompt_field) take_body_field(name, value, line);
  }
  for (const auto& [name, value] : json.items()) {
    if (name != "custom_id" && name != "method" && name != "url" && name != "body")
      line.extra["line"][name] = value;
  }
  return line;
}

h5::Store store_of(const ParamInfo& info) {
  if (info.kind == ParamKind::boolean) return h5::Store::int8;
  return info.kind == ParamKind::integer ? h5::Store::int64 : h5::Store::float64;
}

double default_cell(const ParamInfo& info) {
  return info.kind == ParamKind::number ? std::numeric_limits<double>::quiet_NaN() : -1.0;
}

// Collects rows and writes them in blocks. Columns that only some lines need come into being with the first
// such line; their fill value is "the job's default" for all rows before.
class PromptsWriter {
 public:
  explicit PromptsWriter(const std::string& path) : file_(h5::File::create(path)) {}

  void add(BatchLine line) {
    if (rows_ + waiting_.size() == 0) start(line.form);
    waiting_bytes_ += 256 + line.text.size() + line.tokens.size() * sizeof(std::int32_t);
    waiting_.push_back(std::move(line));
    if (waiting_.size() == kRowsPerWrite || waiting_bytes_ > kBytesPerWrite) flush();
  }

  ImportReport finish() {
    if (!started_) start(PromptForm::text);
    flush();
    text_ = tokens_ = offsets_ = id_ = {};
    params_.clear();
    texts_.clear();
    file_.set_attribute("/", "nightshift_format", "prompts/1");
    file_.close();
    return {rows_, form_};
  }

  bool takes(PromptForm form) const { return !started_ || form == form_; }
  PromptForm form() const { return form_; }

 private:
  void start(PromptForm form) {
    started_ = true;
    form_ = form;
    id_ = file_.create("/prompts/id", {.store = h5::Store::string});
    if (form != PromptForm::tokens) {
      text_ = file_.create(fmt::format("/prompts/{}", name_of(form)), {.store = h5::Store::string});
      return;
    }
    tokens_ = file_.create("/prompts/tokens", {.store = h5::Store::int32});
    offsets_ = file_.create("/prompts/offsets", {.store = h5::Store::uint64});
    offsets_.append(std::span<const std::uint64_t>(&total_tokens_, 1));
  }

  void flush() {
    if (waiting_.empty()) return;
    write_prompts();
    write_params();
    write_json("/params/json", &BatchLine::rest);
    write_json("/prompts/extra", &BatchLine::extra);
    rows_ += waiting_.size();
    waiting_.clear();
    waiting_bytes_ = 0;
  }

  void write_prompts() {
    std::vector<std::string> ids, texts;
    std::vector<std::int32_t> tokens;
    std::vector<std::uint64_t> offsets;
    for (BatchLine& line : waiting_) {
      ids.push_back(std::move(line.id));
      texts.push_back(std::move(line.text));
      tokens.insert(tokens.end(), line.tokens.begin(), line.tokens.end());
      offsets.push_back(total_tokens_ += line.tokens.size());
    }
    id_.append_strings(ids);
    if (form_ != PromptForm::tokens) return text_.append_strings(texts);
    tokens_.append(std::span<const std::int32_t>(tokens));
    offsets_.append(std::span<const std::uint64_t>(offsets));
  }

  void write_params() {
    for (const ParamInfo& info : sampling_param_infos()) {
      const std::string name(info.name);
      std::vector<double> cells;
      bool any = params_.contains(name);
      for (const BatchLine& line : waiting_) {
        const auto it = line.params.find(name);
        any = any || it != line.params.end();
        cells.push_back(it != line.params.end() ? it->second : default_cell(info));
      }
      if (!any) continue;
      if (!params_.contains(name)) {
        const h5::ColumnSpec spec{.store = store_of(info), .rows = rows_, .fill = default_cell(info)};
        params_[name] = file_.create("/params/" + name, spec);
      }
      params_[name].append(std::span<const double>(cells));
    }
  }

  void write_json(const std::string& name, Json BatchLine::*field) {
    std::vector<std::string> cells;
    bool any = texts_.contains(name);
    for (const BatchLine& line : waiting_) {
      const Json& value = line.*field;
      any = any || !value.empty();
      cells.push_back(value.empty() ? "" : value.dump());
    }
    if (!any) return;
    if (!texts_.contains(name))
      texts_[name] = file_.create(name, {.store = h5::Store::string, .rows = rows_});
    texts_[name].append_strings(cells);
  }

  h5::File file_;
  bool started_ = false;
  PromptForm form_ = PromptForm::text;
  h5::Dataset id_, text_, tokens_, offsets_;
  std::map<std::string, h5::Dataset> params_, texts_;
  std::vector<BatchLine> waiting_;
  std::size_t waiting_bytes_ = 0;
  std::uint64_t rows_ = 0, total_tokens_ = 0;
};

// Calls `visit` with every line that is not blank and its number, counted from 1.
template <class Visit>
void for_each_line(const std::string& path, const Visit& visit) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw BadInput(fmt::format("cannot open {}: {}", path, std::strerror(errno)));
  std::string line;
  for (std::uint64_t number = 1; std::getline(in, line); ++number) {
    if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    if (!visit(number, line)) return;
  }
  if (in.bad()) throw_system_error("cannot read " + path, errno);
}

[[noreturn]] void refuse(const std::string& path, const std::vector<std::string>& problems) {
  const bool more = problems.size() > kProblemsShown;
  const std::span<const std::string> shown(problems.data(), std::min(problems.size(), kProblemsShown));
  throw BadInput(fmt::format("{} is not a good batch file:\n  {}{}", path, fmt::join(shown, "\n  "),
                             more ? "\n  and more" : ""),
                 "correct these lines; nothing has been written");
}

std::uint64_t line_of_row(const std::string& path, PromptRow row) {
  std::uint64_t line = 0;
  for_each_line(path, [&](std::uint64_t number, const std::string&) {
    line = number;
    return row-- > 0;
  });
  return line;
}

void check_ids(const std::string& jsonl_path, const std::string& prompts_path) {
  const PromptReader reader(prompts_path);
  const auto read = [&](PromptRow first, std::uint64_t count) { return reader.read_ids(first, count); };
  const auto repeated = find_repeated_id(reader.rows(), read);
  if (!repeated) return;
  refuse(jsonl_path, {fmt::format("line {}: custom_id \"{}\" is that of line {}",
                                  line_of_row(jsonl_path, repeated->second),
                                  std::get<std::string>(reader.read_ids(repeated->first, 1)[0]),
                                  line_of_row(jsonl_path, repeated->first))});
}

}  // namespace

ImportReport import_batch(const std::string& jsonl_path, const std::string& prompts_path) {
  TemporaryFile temporary(prompts_path);
  PromptsWriter writer(temporary.path());
  std::vector<std::string> problems;
  std::string url;
  for_each_line(jsonl_path, [&](std::uint64_t number, const std::string& text) {
    try {
      BatchLine line = read_line(text, url);
      if (!writer.takes(line.form)) {
        throw LineProblem{0, fmt::format("\"prompt\" as {} after {}: one file holds one form",
                                         name_of(line.form), name_of(writer.form()))};
      }
      writer.add(std::move(line));
    } catch (const LineProblem& problem) {
      const std::string column = problem.column > 0 ? fmt::format(", column {}", problem.column) : "";
      problems.push_back(fmt::format("line {}{}: {}", number, column, problem.text));
    }
    return problems.size() <= kProblemsShown;
  });
  if (!problems.empty()) refuse(jsonl_path, problems);
  const ImportReport report = writer.finish();
  check_ids(jsonl_path, temporary.path());
  temporary.commit();
  return report;
}

}  // namespace nightshift::io
