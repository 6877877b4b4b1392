// SPDX-License-Identifier: Apache-2.0
#include "io/reopen.h"

#include <algorithm>
#include <optional>

#include "core/check.h"
#include "io/hdf5.h"

namespace nightshift::io {
namespace {

constexpr std::uint64_t kRowsPerRead = 512;

// The columns of a result that make up its records.
class ResultColumnsReader {
 public:
  explicit ResultColumnsReader(const std::string& path) : file_(h5::File::open(path)) {
    if (file_.attribute("/", "nightshift_format") != "results/1")
      throw BadInput(path + " is not a results/1 file");
    rows_ = column("text").rows();
    tokens_ = column("tokens");
    has_logprobs_ = file_.has("/results/logprobs");
    if (file_.has("/results/top_tokens")) {
      const h5::Dataset top = column("top_tokens");
      const auto& shape = top.info().shape;
      top_k_ = shape.size() == 2 ? static_cast<std::int32_t>(shape[1]) : 0;
    }
  }

  std::uint64_t rows() const { return rows_; }

  // Reason and error of rows first .. first + count - 1.
  std::vector<ResultRecord> read_reasons(std::uint64_t first, std::uint64_t count) const {
    std::vector<ResultRecord> out(count);
    const auto reasons = numbers<std::uint8_t>("finish_reason", first, count);
    std::vector<std::string> errors = strings("error", first, count);
    for (std::size_t i = 0; i < count; ++i) {
      if (reasons[i] > static_cast<std::uint8_t>(kLastFinishReason)) broken("finish_reason", first + i);
      out[i].finish_reason = static_cast<FinishReason>(reasons[i]);
      out[i].error = std::move(errors[i]);
    }
    return out;
  }

  std::vector<ResultRecord> read(std::uint64_t first, std::uint64_t count) const {
    std::vector<ResultRecord> out = read_reasons(first, count);
    const auto rows = numbers<std::uint64_t>("row", first, count);
    const auto samples = numbers<std::int32_t>("sample", first, count);
    const auto prompt = numbers<std::int32_t>("prompt_tokens", first, count);
    const auto cached = numbers<std::int32_t>("cached_tokens", first, count);
    const auto started = numbers<double>("started_s", first, count);
    const auto first_token = numbers<double>("first_token_s", first, count);
    const auto finished = numbers<double>("finished_s", first, count);
    const auto offsets = numbers<std::uint64_t>("offsets", first, count + 1);
    std::vector<std::string> texts = strings("text", first, count);
    for (std::size_t i = 0; i < count; ++i) {
      ResultRecord& r = out[i];
      r.row = rows[i];
      r.sample = samples[i];
      r.prompt_tokens = prompt[i];
      r.cached_tokens = cached[i];
      r.started_s = started[i];
      r.first_token_s = first_token[i];
      r.finished_s = finished[i];
      r.text = std::move(texts[i]);
      if (offsets[i + 1] < offsets[i] || offsets[i + 1] > tokens_.rows()) broken("offsets", first + i);
      read_tokens(offsets[i], offsets[i + 1] - offsets[i], r);
    }
    return out;
  }

 private:
  h5::Dataset column(const std::string& name) const { return file_.dataset("/results/" + name); }

  [[noreturn]] void broken(const char* name, std::uint64_t row) const {
    throw BadInput(fmt::format("{}: /results/{} is broken at row {}", file_.path(), name, row));
  }

  h5::Dataset column_of(const char* name, std::uint64_t end) const {
    h5::Dataset data = column(name);
    if (data.rows() < end) broken(name, data.rows());
    return data;
  }

  template <class T>
  std::vector<T> numbers(const char* name, std::uint64_t first, std::uint64_t count) const {
    std::vector<T> values(count);
    column_of(name, first + count).read(first, count, values.data());
    return values;
  }

  std::vector<std::string> strings(const char* name, std::uint64_t first, std::uint64_t count) const {
    return column_of(name, first + count).read_strings(first, count);
  }

  void read_tokens(std::uint64_t first, std::uint64_t count, ResultRecord& out) const {
    out.tokens.resize(count);
    if (count == 0) return;
    tokens_.read(first, count, out.tokens.data());
    if (has_logprobs_) out.logprobs = numbers<float>("logprobs", first, count);
    if (top_k_ == 0) return;
    out.top_k = top_k_;
    const std::size_t size = count * static_cast<std::size_t>(top_k_);
    std::vector<TokenId> ids(size);
    std::vector<float> logprobs(size);
    column_of("top_tokens", first + count).read(first, count, ids.data());
    column_of("top_logprobs", first + count).read(first, count, logprobs.data());
    for (std::size_t i = 0; i < size; ++i) out.top.push_back({ids[i], logprobs[i]});
  }

  h5::File file_;
  h5::Dataset tokens_;
  std::uint64_t rows_ = 0;
  bool has_logprobs_ = false;
  std::int32_t top_k_ = 0;
};

// How many samples a prompt has is known once the next prompt's first row has come.
class Prompt {
 public:
  void add(ResultRecord&& record) { records_.push_back(std::move(record)); }
  bool continues(const ResultRecord& next) const { return records_.empty() || records_[0].row == next.row; }

  std::uint64_t write(ResultJournal& journal, const std::function<bool(const ResultRecord&)>& keep) {
    std::uint64_t left_out = 0;
    for (ResultRecord& record : records_) {
      record.samples = static_cast<std::int32_t>(records_.size());
      if (keep(record)) {
        journal.append(record);
      } else {
        ++left_out;
      }
    }
    records_.clear();
    return left_out;
  }

 private:
  std::vector<ResultRecord> records_;
};

}  // namespace

std::uint64_t reopen_result(const std::string& result, const std::string& directory, std::uint64_t job,
                            const std::function<bool(const ResultRecord&)>& keep) {
  const ResultColumnsReader reader(result);
  ResultJournal journal(directory, 0, job);
  Prompt prompt;
  std::uint64_t left_out = 0;
  for (std::uint64_t first = 0; first < reader.rows(); first += kRowsPerRead) {
    for (ResultRecord& record : reader.read(first, std::min(kRowsPerRead, reader.rows() - first))) {
      if (!prompt.continues(record)) left_out += prompt.write(journal, keep);
      prompt.add(std::move(record));
    }
  }
  left_out += prompt.write(journal, keep);
  journal.close();
  return left_out;
}

std::uint64_t count_results(const std::string& result,
                            const std::function<bool(const ResultRecord&)>& which) {
  const ResultColumnsReader reader(result);
  std::uint64_t found = 0;
  for (std::uint64_t first = 0; first < reader.rows(); first += kRowsPerRead) {
    const auto records = reader.read_reasons(first, std::min(kRowsPerRead, reader.rows() - first));
    found += static_cast<std::uint64_t>(std::count_if(records.begin(), records.end(), which));
  }
  return found;
}

}  // namespace nightshift::io
