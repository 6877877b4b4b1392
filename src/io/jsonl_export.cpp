// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/params.h"
#include "io/hdf5.h"
#include "io/jsonl.h"
#include "io/jsonl_lines.h"
#include "io/text_checks.h"

namespace nightshift::io {
namespace {

constexpr std::uint64_t kRowsPerRead = 1024;

Json parse_cell(const std::string& text, const std::string& path, const std::string& column, PromptRow row) {
  Json value =
      nests_deeper(text, kMaxJsonDepth) ? Json(Json::value_t::discarded) : Json::parse(text, nullptr, false);
  if (value.is_discarded()) throw BadInput(fmt::format("{}: {}[{}] is not JSON", path, column, row));
  return value;
}

// One /params/<name> column as JSON values; null stands for the job's default.
class ParamCells {
 public:
  ParamCells(const h5::File& file, const ParamInfo& info)
      : info_(info), data_(file.dataset("/params/" + name())) {}

  std::string name() const { return std::string(info_.name); }

  std::vector<Json> read(PromptRow first, std::uint64_t count, const std::string& path) const {
    std::vector<Json> cells(count);
    if (data_.info().type == h5::TypeClass::string) {
      const std::vector<std::string> texts = data_.read_strings(first, count);
      for (std::uint64_t i = 0; i < count; ++i) {
        if (texts[i].empty()) continue;
        const bool list = texts[i].front() == '[' || info_.kind == ParamKind::id_list;
        cells[i] = list ? parse_cell(texts[i], path, data_.name(), first + i) : Json(texts[i]);
      }
      return cells;
    }
    std::vector<double> numbers(count);
    data_.read(first, count, numbers.data());
    for (std::uint64_t i = 0; i < count; ++i) cells[i] = to_json(numbers[i]);
    return cells;
  }

 private:
  Json to_json(double cell) const {
    if (std::isnan(cell) || (cell == -1.0 && info_.kind != ParamKind::number)) return nullptr;
    if (info_.kind == ParamKind::boolean && (cell == 0.0 || cell == 1.0)) return cell == 1.0;
    if (info_.kind == ParamKind::integer && cell == std::floor(cell) && std::abs(cell) < 9e15) {
      return static_cast<std::int64_t>(cell);
    }
    return cell;
  }

  const ParamInfo& info_;
  h5::Dataset data_;
};

class BatchExporter {
 public:
  explicit BatchExporter(const std::string& path) : reader_(path), file_(h5::File::open(path)) {
    for (const ParamInfo& info : sampling_param_infos()) {
      if (file_.has(fmt::format("/params/{}", info.name))) params_.emplace_back(file_, info);
    }
    if (file_.has(std::string(kJsonColumn))) json_ = file_.dataset(std::string(kJsonColumn));
    if (file_.has(std::string(kExtraColumn))) extra_ = file_.dataset(std::string(kExtraColumn));
  }

  void write(JsonlWriter& out) const {
    for (PromptRow first = 0; first < reader_.rows(); first += kRowsPerRead) {
      for (const Json& line : read(first)) out.write(line);
    }
  }

 private:
  std::vector<Json> read(PromptRow first) const {
    const std::vector<Prompt> prompts = reader_.read(first, kRowsPerRead);
    const std::vector<Json> extras = read_objects(extra_, first, prompts.size());
    std::vector<Json> bodies;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      bodies.push_back(extras[i].value("body", Json::object()));
      add_prompt(prompts[i], bodies.back());
    }
    for (const ParamCells& column : params_) {
      const std::vector<Json> cells = column.read(first, prompts.size(), reader_.path());
      for (std::size_t i = 0; i < cells.size(); ++i) {
        if (!cells[i].is_null()) bodies[i][column.name()] = cells[i];
      }
    }
    const std::vector<Json> rest = read_objects(json_, first, prompts.size());
    for (std::size_t i = 0; i < prompts.size(); ++i) bodies[i].update(rest[i]);
    std::vector<Json> lines;
    for (std::size_t i = 0; i < prompts.size(); ++i)
      lines.push_back(make_line(prompts[i], extras[i], std::move(bodies[i])));
    return lines;
  }

  void add_prompt(const Prompt& prompt, Json& body) const {
    if (prompt.form == PromptForm::messages) {
      body["messages"] = parse_cell(prompt.text, reader_.path(), "/prompts/messages", prompt.row);
    } else if (prompt.form == PromptForm::text) {
      body["prompt"] = prompt.text;
    } else if (prompt.error.starts_with("bad_tokens")) {
      throw BadInput(fmt::format("{}: row {}: {}", reader_.path(), prompt.row, prompt.error));
    } else {
      body["prompt"] = prompt.tokens;
    }
  }

  static Json make_line(const Prompt& prompt, const Json& extra, Json body) {
    Json line = Json::object();
    line["custom_id"] = std::holds_alternative<std::string>(prompt.id)
                            ? std::get<std::string>(prompt.id)
                            : std::to_string(std::get<std::int64_t>(prompt.id));
    line["method"] = "POST";
    line["url"] = prompt.form == PromptForm::messages ? kChatUrl : kTextUrl;
    line["body"] = std::move(body);
    line.update(extra.value("line", Json::object()));
    return line;
  }

  std::vector<Json> read_objects(const std::optional<h5::Dataset>& column, PromptRow first,
                                 std::uint64_t count) const {
    std::vector<Json> objects(count, Json::object());
    if (!column) return objects;
    const std::vector<std::string> cells = column->read_strings(first, count);
    for (std::uint64_t i = 0; i < count; ++i) {
      if (cells[i].empty()) continue;
      objects[i] = parse_cell(cells[i], reader_.path(), column->name(), first + i);
      if (!objects[i].is_object()) {
        throw BadInput(
            fmt::format("{}: {}[{}] is not a JSON object", reader_.path(), column->name(), first + i));
      }
    }
    return objects;
  }

  PromptReader reader_;
  h5::File file_;
  std::vector<ParamCells> params_;
  std::optional<h5::Dataset> json_, extra_;
};

}  // namespace

std::uint64_t export_batch(const std::string& prompts_path, const std::string& jsonl_path) {
  const BatchExporter exporter(prompts_path);
  JsonlWriter out(jsonl_path);
  exporter.write(out);
  return out.commit();
}

}  // namespace nightshift::io
