// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <map>

#include "io/hdf5.h"
#include "io/jsonl.h"
#include "io/jsonl_lines.h"
#include "io/text_checks.h"

namespace nightshift::io {
namespace {

constexpr std::uint64_t kRowsPerRead = 512;
constexpr std::uint64_t kMostAlternatives = 1024;  // per token: the largest legal logprobs

struct Row {
  std::string id;
  std::uint64_t row = 0;
  std::int32_t sample = 0;
  FinishReason reason = FinishReason::none;
  std::string text, error;
  std::int32_t prompt_tokens = 0, output_tokens = 0, cached_tokens = 0;
  std::vector<std::int32_t> tokens, top_tokens;  // filled where log-probabilities are
  std::vector<float> logprobs, top_logprobs;
};

template <class T>
std::vector<T> read_numbers(const h5::Dataset& data, std::uint64_t first, std::uint64_t count) {
  std::vector<T> values(count * (data.info().shape.size() > 1 ? data.info().shape[1] : 1));
  data.read(first, count, values.data());
  return values;
}

// A token by its number, in the convention of vLLM's return_tokens_as_token_ids: the text of single tokens is
// not kept.
std::string token_name(std::int32_t token) {
  return fmt::format("token_id:{}", token);
}

Json number_or_null(float value) {
  return std::isfinite(value) ? Json(static_cast<double>(value)) : Json(nullptr);
}

constexpr std::array kPerRow{"id",           "row",           "sample",        "text",
                             "error",        "finish_reason", "prompt_tokens", "output_tokens",
                             "cached_tokens"};

// A result file with all its columns open.
class ResultFile {
 public:
  explicit ResultFile(const std::string& path) : file_(h5::File::open(path)) {
    if (file_.attribute("/", "nightshift_format") != "results/1")
      throw BadInput(path + " is not a results/1 file");
    for (const std::string& name : file_.children("/results"))
      columns_[name] = file_.dataset("/results/" + name);
    rows_ = column("text").rows();
    for (const char* name : kPerRow) check_rows(name, rows_);
    check_rows("offsets", rows_ + 1);
    for (const auto& [name, data] : columns_) {
      check_shape(name, data.info().shape.size());
      file_.check_extent(data);
    }
    has_logprobs_ = columns_.contains("logprobs");
    has_top_ = columns_.contains("top_tokens") && columns_.contains("top_logprobs");
    if (has_logprobs_) check_rows("logprobs", column("tokens").rows());
    if (has_top_) check_alternatives();
  }

  std::uint64_t rows() const { return rows_; }
  const h5::File& file() const { return file_; }
  bool has_logprobs() const { return has_logprobs_; }
  bool is_chat() const { return file_.attribute("/results", "form") == "messages"; }

  std::vector<Row> read(std::uint64_t first, std::uint64_t count) const {
    std::vector<Row> out(count);
    read_ids(first, out);
    const auto rows = read_numbers<std::uint64_t>(column("row"), first, count);
    const auto samples = read_numbers<std::int32_t>(column("sample"), first, count);
    const auto reasons = read_numbers<std::uint8_t>(column("finish_reason"), first, count);
    const auto prompt = read_numbers<std::int32_t>(column("prompt_tokens"), first, count);
    const auto output = read_numbers<std::int32_t>(column("output_tokens"), first, count);
    const auto cached = read_numbers<std::int32_t>(column("cached_tokens"), first, count);
    std::vector<std::string> texts = column("text").read_strings(first, count);
    std::vector<std::string> errors = column("error").read_strings(first, count);
    for (std::uint64_t i = 0; i < count; ++i) {
      Row& r = out[i];
      r.row = rows[i];
      r.sample = samples[i];
      r.reason =
          static_cast<FinishReason>(std::min(reasons[i], static_cast<std::uint8_t>(kLastFinishReason)));
      r.text = std::move(texts[i]);
      r.error = std::move(errors[i]);
      r.prompt_tokens = prompt[i];
      r.output_tokens = output[i];
      r.cached_tokens = cached[i];
    }
    if (has_logprobs_) read_logprobs(first, out);
    return out;
  }

 private:
  const h5::Dataset& column(const std::string& name) const {
    const auto it = columns_.find(name);
    if (it == columns_.end()) throw BadInput(fmt::format("{} has no /results/{}", file_.path(), name));
    return it->second;
  }

  void check_rows(const std::string& name, std::uint64_t expected) const {
    if (column(name).rows() == expected) return;
    throw BadInput(fmt::format("{}: /results/{} has {} rows instead of {}", file_.path(), name,
                               column(name).rows(), expected));
  }

  // Only the alternatives are a table; the buffers below have room for no more.
  void check_shape(const std::string& name, std::size_t rank) const {
    const bool table = name == "top_tokens" || name == "top_logprobs";
    if (rank == (table ? 2 : 1)) return;
    throw BadInput(fmt::format("{}: /results/{} has {} dimensions", file_.path(), name, rank),
                   "the file is damaged or not a result of nightshift");
  }

  void check_alternatives() const {
    for (const char* name : {"top_tokens", "top_logprobs"}) check_rows(name, column("tokens").rows());
    const std::uint64_t width = column("top_tokens").info().shape[1];
    if (width <= kMostAlternatives && width == column("top_logprobs").info().shape[1]) return;
    throw BadInput(fmt::format("{}: /results/top_tokens and top_logprobs have {} and {} columns",
                               file_.path(), width, column("top_logprobs").info().shape[1]),
                   "the file is damaged or not a result of nightshift");
  }

  void read_ids(std::uint64_t first, std::vector<Row>& out) const {
    const h5::Dataset& id = column("id");
    if (id.info().type == h5::TypeClass::string) {
      std::vector<std::string> ids = id.read_strings(first, out.size());
      for (std::size_t i = 0; i < out.size(); ++i) out[i].id = std::move(ids[i]);
      return;
    }
    const auto ids = read_numbers<std::int64_t>(id, first, out.size());
    for (std::size_t i = 0; i < out.size(); ++i) out[i].id = std::to_string(ids[i]);
  }

  void read_logprobs(std::uint64_t first, std::vector<Row>& out) const {
    const h5::Dataset& tokens = column("tokens");
    const auto offsets = read_numbers<std::uint64_t>(column("offsets"), first, out.size() + 1);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (offsets[i + 1] < offsets[i] || offsets[i + 1] > tokens.rows()) {
        throw BadInput(fmt::format("{}: /results/offsets is broken at row {}", file_.path(), first + i));
      }
      const std::uint64_t count = offsets[i + 1] - offsets[i];
      out[i].tokens = read_numbers<std::int32_t>(tokens, offsets[i], count);
      out[i].logprobs = read_numbers<float>(column("logprobs"), offsets[i], count);
      if (!has_top_) continue;
      out[i].top_tokens = read_numbers<std::int32_t>(column("top_tokens"), offsets[i], count);
      out[i].top_logprobs = read_numbers<float>(column("top_logprobs"), offsets[i], count);
    }
  }

  h5::File file_;
  std::map<std::string, h5::Dataset> columns_;
  std::uint64_t rows_ = 0;
  bool has_logprobs_ = false, has_top_ = false;
};

// Calls `visit` with the alternatives of token `t`: (name, log-probability).
template <class Visit>
void for_each_top(const Row& row, std::size_t t, const Visit& visit) {
  const std::size_t width = row.tokens.empty() ? 0 : row.top_tokens.size() / row.tokens.size();
  for (std::size_t k = t * width; k < (t + 1) * width; ++k) {
    if (row.top_tokens[k] >= 0) visit(token_name(row.top_tokens[k]), number_or_null(row.top_logprobs[k]));
  }
}

Json chat_logprobs(const Row& row) {
  Json content = Json::array();
  for (std::size_t t = 0; t < row.tokens.size(); ++t) {
    Json top = Json::array();
    for_each_top(row, t, [&](const std::string& name, const Json& value) {
      top.push_back({{"token", name}, {"logprob", value}, {"bytes", nullptr}});
    });
    content.push_back({{"token", token_name(row.tokens[t])},
                       {"logprob", number_or_null(row.logprobs[t])},
                       {"bytes", nullptr},
                       {"top_logprobs", std::move(top)}});
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json text_logprobs(const Row& row) {
  Json tokens = Json::array(), values = Json::array(), tops = Json::array();
  for (std::size_t t = 0; t < row.tokens.size(); ++t) {
    tokens.push_back(token_name(row.tokens[t]));
    values.push_back(number_or_null(row.logprobs[t]));
    Json top = Json::object();
    for_each_top(row, t, [&](const std::string& name, const Json& value) { top[name] = value; });
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", std::move(tops)}};
}

class ReplyWriter {
 public:
  ReplyWriter(const ResultFile& file, const ExportOptions& options)
      : chat_(file.is_chat()), logprobs_(file.has_logprobs()) {
    const std::string text = file.file().attribute("/", "provenance").value_or("{}");
    const Json provenance = nests_deeper(text, kMaxJsonDepth) ? Json() : Json::parse(text, nullptr, false);
    model_ = !options.model.empty() ? options.model : model_of(provenance);
    const Json::json_pointer finished("/finished_unix");
    if (provenance.is_object() && provenance.contains(finished) && provenance[finished].is_number()) {
      created_ = provenance[finished].get<std::int64_t>();
    }
  }

  // One output line from all samples of a prompt.
  Json line(const std::vector<Row>& samples) const {
    Json choices = Json::array();
    const Row* failed = nullptr;
    std::int64_t output_tokens = 0;
    for (const Row& row : samples) {
      const bool good = row.reason != FinishReason::failed && row.reason != FinishReason::cancelled;
      if (good) choices.push_back(choice(row));
      if (!good && failed == nullptr) failed = &row;
      output_tokens += row.output_tokens;
    }
    const Row& first = samples.front();
    Json out;
    out["id"] = fmt::format("batch_req_{}", first.row);
    out["custom_id"] = first.id;
    out["response"] = choices.empty() ? Json(nullptr) : response(first, std::move(choices), output_tokens);
    out["error"] = failed == nullptr ? Json(nullptr) : error(*failed);
    return out;
  }

 private:
  static std::string model_of(const Json& provenance) {
    for (const char* place : {"/model/name", "/job/model/path", "/model/path"}) {
      const Json::json_pointer pointer(place);
      if (!provenance.is_object() || !provenance.contains(pointer) || !provenance[pointer].is_string())
        continue;
      const std::string path = provenance[pointer].get<std::string>();
      return path.substr(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/') + 1);
    }
    return {};
  }

  Json choice(const Row& row) const {
    Json out{{"index", row.sample}};
    if (chat_) {
      out["message"] = {{"role", "assistant"}, {"content", row.text}};
    } else {
      out["text"] = row.text;
    }
    out["logprobs"] = !logprobs_ ? Json(nullptr) : chat_ ? chat_logprobs(row) : text_logprobs(row);
    out["finish_reason"] = name_of(row.reason);
    return out;
  }

  Json response(const Row& first, Json choices, std::int64_t output_tokens) const {
    Json body;
    body["id"] = fmt::format("{}-{}", chat_ ? "chatcmpl" : "cmpl", first.row);
    body["object"] = chat_ ? "chat.completion" : "text_completion";
    body["created"] = created_;
    body["model"] = model_;
    body["choices"] = std::move(choices);
    body["usage"] = {{"prompt_tokens", first.prompt_tokens},
                     {"completion_tokens", output_tokens},
                     {"total_tokens", first.prompt_tokens + output_tokens},
                     {"prompt_tokens_details", {{"cached_tokens", first.cached_tokens}}}};
    return {
        {"status_code", 200}, {"request_id", fmt::format("req_{}", first.row)}, {"body", std::move(body)}};
  }

  // "too_long: 9000 > 8192 tokens" -> code too_long, message as a whole.
  static Json error(const Row& row) {
    const std::string code =
        row.error.empty() ? name_of(row.reason) : row.error.substr(0, row.error.find(':'));
    return {{"code", code}, {"message", row.error.empty() ? code : row.error}};
  }

  bool chat_, logprobs_;
  std::string model_;
  std::int64_t created_ = 0;
};

}  // namespace

std::uint64_t export_results(const std::string& results_path, const std::string& jsonl_path,
                             const ExportOptions& options) {
  const ResultFile file(results_path);
  const ReplyWriter replies(file, options);
  JsonlWriter out(jsonl_path);
  std::vector<Row> samples;
  const auto open = [](const Row& row) { return row.reason == FinishReason::cancelled; };
  const auto write = [&] {
    const bool wanted = !options.answered_only || !std::all_of(samples.begin(), samples.end(), open);
    if (!samples.empty() && wanted) out.write(replies.line(samples));
    samples.clear();
  };
  for (std::uint64_t first = 0; first < file.rows(); first += kRowsPerRead) {
    for (Row& row : file.read(first, std::min(kRowsPerRead, file.rows() - first))) {
      if (!samples.empty() && samples.front().row != row.row) write();
      samples.push_back(std::move(row));
    }
  }
  write();
  return out.commit();
}

}  // namespace nightshift::io
