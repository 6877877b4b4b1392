// SPDX-License-Identifier: Apache-2.0
#include "io/results.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "core/check.h"
#include "io/files.h"
#include "io/result_columns.h"
#include "io/text_checks.h"

namespace nightshift::io {
namespace {

constexpr std::uint64_t kIdsPerRead = 8192;
constexpr std::uint64_t kRowsCompared = 1000;
constexpr std::size_t kComparedAtOnce = 4;

struct ComparedRow {
  std::uint64_t result_row, hash;
};

// Ids of the input, read ahead in blocks: rows are asked for in rising order.
class IdStream {
 public:
  explicit IdStream(const PromptReader& prompts) : prompts_(prompts) {}
  const RowId& at(PromptRow row) {
    if (row >= first_ + ids_.size() || row < first_) {
      first_ = row;
      ids_ = prompts_.read_ids(row, kIdsPerRead);
    }
    return ids_[row - first_];
  }

 private:
  const PromptReader& prompts_;
  PromptRow first_ = 0;
  std::vector<RowId> ids_;
};

// Puts records, which come in order of (row, sample), into the file and cancelled rows where records are
// missing.
class Assembler {
 public:
  // `answers`: in the journals; what is compared must not grow with the samples per prompt.
  Assembler(h5::File& file, const PromptReader& prompts, std::uint64_t answers, const ResultOptions& options)
      : ids_(prompts),
        columns_(file, prompts.has_text_ids(), options),
        stride_(std::max<std::uint64_t>(std::max(prompts.rows(), answers) / kRowsCompared, 1)) {
    summary_.prompts = prompts.rows();
  }

  void add(const ResultRecord& record) {
    cancel_until(record.row, record.sample);
    samples_ = record.samples;
    write(record);
    ++sample_;
  }

  void finish(std::uint64_t rows) {
    cancel_until(rows, 0);
    columns_.finish();
  }

  ResultSummary& summary() { return summary_; }
  const std::vector<ComparedRow>& compared() const { return compared_; }
  std::uint64_t tokens() const { return columns_.tokens(); }

 private:
  // Moves on to (row, sample); everything passed over has no record. A row without any counts as one sample.
  void cancel_until(PromptRow row, std::int32_t sample) {
    while (row_ < row) {
      while (sample_ < samples_) cancel();
      ++row_;
      sample_ = 0;
      samples_ = 1;
    }
    while (sample_ < sample) cancel();
  }

  void cancel() {
    ResultRecord record;
    record.row = row_;
    record.sample = sample_++;
    record.finish_reason = FinishReason::cancelled;
    record.error = "cancelled: not answered when this file was written";
    write(record);
  }

  void write(const ResultRecord& record) {
    if (columns_.rows() % stride_ == 0) {
      compared_.push_back(
          {columns_.rows(), row_hash(record.tokens, storable_text(record.text), storable_text(record.error),
                                     static_cast<std::uint8_t>(record.finish_reason))});
    }
    columns_.add(ids_.at(record.row), record);
    ++summary_.rows;
    summary_.prompt_tokens += static_cast<std::uint64_t>(record.prompt_tokens);
    summary_.cached_tokens += static_cast<std::uint64_t>(record.cached_tokens);
    summary_.output_tokens += record.tokens.size();
    summary_.cancelled += record.finish_reason == FinishReason::cancelled;
    if (record.finish_reason != FinishReason::failed) return;
    ++summary_.failed;
    ++summary_.failures[record.error.substr(0, record.error.find(':'))];
  }

  IdStream ids_;
  ResultColumns columns_;
  std::uint64_t stride_;
  std::vector<ComparedRow> compared_;
  ResultSummary summary_;
  PromptRow row_ = 0;
  std::int32_t sample_ = 0, samples_ = 1;  // next sample of row_, and how many it has as far as known
};

void check_complete(const PromptReader& prompts, const JournalIndex& index, bool partial) {
  if (partial || index.committed_rows() == prompts.rows()) return;
  PromptRow first = 0;
  while (first < prompts.rows() && index.committed(first)) ++first;
  throw Error(fmt::format("the journal holds {} of {} rows; row {} is the first without its answers",
                          index.committed_rows(), prompts.rows(), first),
              "run the job again to finish it, or export what is there with --partial");
}

std::string counts_json(const ResultSummary& s) {
  return nlohmann::json{{"prompts", s.prompts},
                        {"rows", s.rows},
                        {"prompt_tokens", s.prompt_tokens},
                        {"output_tokens", s.output_tokens},
                        {"cached_tokens", s.cached_tokens},
                        {"failed", s.failed},
                        {"cancelled", s.cancelled},
                        {"failures", s.failures}}
      .dump();
}

// The datasets live inside the assembler, so they are closed before the file is.
void write_file(const std::string& path, const PromptReader& prompts, const JournalIndex& index,
                const ResultOptions& options, ResultSummary& summary, std::vector<ComparedRow>& compared) {
  h5::File file = h5::File::create(path);
  {
    Assembler assembler(file, prompts, index.size(), options);
    index.for_each([&](const ResultRecord& record) {
      if (record.row >= prompts.rows()) {
        throw Error(fmt::format("the journal has row {}, but {} has {} rows", record.row, prompts.path(),
                                prompts.rows()));
      }
      assembler.add(record);
    });
    assembler.finish(prompts.rows());
    summary = assembler.summary();
    compared = assembler.compared();
  }
  file.set_attribute("/", "nightshift_format", "results/1");
  file.set_attribute("/", "provenance", options.provenance);
  file.set_attribute("/", "summary", options.summary ? options.summary(summary) : counts_json(summary));
  file.set_attribute("/results", "form", name_of(prompts.form()));
  file.close();
}

[[noreturn]] void verification_failed(const std::string& what) {
  throw Error(
      "the result file does not read back as written: " + what,
      "the storage may be failing; the journal is kept, so that the same command builds the file again");
}

void verify_shapes(const h5::File& file, const ResultSummary& summary) {
  for (const std::string& name : file.children("/results")) {
    const std::uint64_t rows = file.dataset("/results/" + name).rows();
    const bool per_token = name == "tokens" || name == "logprobs" || name.starts_with("top_");
    const std::uint64_t expected =
        per_token ? summary.output_tokens : summary.rows + (name == "offsets" ? 1 : 0);
    if (rows != expected)
      verification_failed(fmt::format("{} has {} rows instead of {}", name, rows, expected));
  }
}

void verify_rows(const std::string& path, const ResultSummary& summary,
                 std::span<const ComparedRow> compared) {
  const h5::File file = h5::File::open(path);
  const h5::Dataset tokens = file.dataset("/results/tokens"), offsets = file.dataset("/results/offsets"),
                    text = file.dataset("/results/text"), error = file.dataset("/results/error"),
                    reason = file.dataset("/results/finish_reason");
  for (const ComparedRow& row : compared) {
    std::uint64_t bounds[2] = {0, 0};
    offsets.read(row.result_row, 2, bounds);
    if (bounds[1] < bounds[0] || bounds[1] > summary.output_tokens) verification_failed("offsets");
    std::vector<TokenId> ids(bounds[1] - bounds[0]);
    tokens.read(bounds[0], ids.size(), ids.data());
    std::uint8_t value = 0;
    reason.read(row.result_row, 1, &value);
    const std::uint64_t hash = row_hash(ids, text.read_strings(row.result_row, 1)[0],
                                        error.read_strings(row.result_row, 1)[0], value);
    if (hash != row.hash) verification_failed(fmt::format("row {}", row.result_row));
  }
}

// HDF5 keeps all strings that were written together with one that it has read, some MiB, until the file is
// closed, so that a thousand looks at a large file would fill memory: every few looks open it anew.
void verify(const std::string& path, const ResultSummary& summary, std::span<const ComparedRow> compared) {
  verify_shapes(h5::File::open(path), summary);
  while (!compared.empty()) {
    const std::size_t count = std::min(compared.size(), kComparedAtOnce);
    verify_rows(path, summary, compared.first(count));
    compared = compared.subspan(count);
  }
}

}  // namespace

ResultSummary write_results(const std::string& path, const PromptReader& prompts, const JournalIndex& index,
                            const ResultOptions& options) {
  check_complete(prompts, index, options.partial);
  TemporaryFile temporary(path);
  ResultSummary summary;
  std::vector<ComparedRow> compared;
  write_file(temporary.path(), prompts, index, options, summary, compared);
  verify(temporary.path(), summary, compared);
  temporary.commit();
  summary.bytes = std::filesystem::file_size(path);
  return summary;
}

std::uint64_t remove_leftovers(const std::string& path) {
  const std::string prefix = std::filesystem::path(path).filename().string() + ".tmp-";
  std::uint64_t removed = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory_of(path))) {
    std::error_code ignored;  // somebody else may have removed it
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    removed += std::filesystem::remove(entry.path(), ignored) ? 1 : 0;
  }
  return removed;
}

}  // namespace nightshift::io
