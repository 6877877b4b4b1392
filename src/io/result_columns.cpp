// SPDX-License-Identifier: Apache-2.0
#include "io/result_columns.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "io/text_checks.h"

namespace nightshift::io {
namespace {

constexpr std::size_t kMaxWaiting = 8u << 20;  // bytes of rows between two writes

}  // namespace

std::uint64_t row_hash(const std::vector<TokenId>& tokens, const std::string& text, const std::string& error,
                       std::uint8_t finish_reason) {
  std::uint64_t hash = XXH3_64bits_withSeed(tokens.data(), tokens.size() * sizeof(TokenId), finish_reason);
  hash = XXH3_64bits_withSeed(text.data(), text.size(), hash);
  return XXH3_64bits_withSeed(error.data(), error.size(), hash);
}

ResultColumns::ResultColumns(h5::File& file, bool text_ids, const ResultOptions& options)
    : text_ids_(text_ids), logprobs_wanted_(options.logprobs), top_k_(options.top_k) {
  using h5::Store;
  const int deflate = options.deflate;
  if (text_ids) {
    text_id_.open(file, "id", Store::string, 0);
  } else {
    number_id_.open(file, "id", Store::int64, deflate);
  }
  row_.open(file, "row", Store::uint64, deflate);
  sample_.open(file, "sample", Store::int32, deflate);
  text_.open(file, "text", Store::string, 0);
  error_.open(file, "error", Store::string, 0);
  tokens_.open(file, "tokens", Store::int32, deflate);
  offsets_.open(file, "offsets", Store::uint64, deflate);
  finish_reason_.open(file, "finish_reason", Store::finish_reason, deflate);
  prompt_tokens_.open(file, "prompt_tokens", Store::int32, deflate);
  output_tokens_.open(file, "output_tokens", Store::int32, deflate);
  cached_tokens_.open(file, "cached_tokens", Store::int32, deflate);
  started_.open(file, "started_s", Store::float64, deflate);
  first_token_.open(file, "first_token_s", Store::float64, deflate);
  finished_.open(file, "finished_s", Store::float64, deflate);
  if (logprobs_wanted_) logprobs_.open(file, "logprobs", Store::float32, deflate);
  if (top_k_ > 0) {
    const auto width = static_cast<std::uint64_t>(top_k_);
    top_tokens_.open(file, "top_tokens", Store::int32, deflate, width);
    top_logprobs_.open(file, "top_logprobs", Store::float32, deflate, width);
  }
  offsets_.waiting.push_back(0);
}

void ResultColumns::add(const RowId& id, const ResultRecord& record) {
  if (text_ids_) {
    const std::string& text = std::get<std::string>(id);
    text_id_.waiting.push_back(text.find('\0') == std::string::npos ? text : storable_text(text));
  } else {
    number_id_.waiting.push_back(std::get<std::int64_t>(id));
  }
  row_.waiting.push_back(record.row);
  sample_.waiting.push_back(record.sample);
  text_.waiting.push_back(storable_text(record.text));
  error_.waiting.push_back(storable_text(record.error));
  tokens_.waiting.insert(tokens_.waiting.end(), record.tokens.begin(), record.tokens.end());
  total_tokens_ += record.tokens.size();
  offsets_.waiting.push_back(total_tokens_);
  finish_reason_.waiting.push_back(static_cast<std::uint8_t>(record.finish_reason));
  prompt_tokens_.waiting.push_back(record.prompt_tokens);
  output_tokens_.waiting.push_back(static_cast<std::int32_t>(record.tokens.size()));
  cached_tokens_.waiting.push_back(record.cached_tokens);
  started_.waiting.push_back(record.started_s);
  first_token_.waiting.push_back(record.first_token_s);
  finished_.waiting.push_back(record.finished_s);
  add_logprobs(record);
  ++rows_;
  const auto per_token =
      sizeof(TokenId) + sizeof(float) + static_cast<std::size_t>(top_k_) * sizeof(TokenLogprob);
  waiting_bytes_ += 128 + record.text.size() + record.error.size() + record.tokens.size() * per_token;
  if (waiting_bytes_ > kMaxWaiting) flush(false);
}

// A row that brings fewer log-probabilities than the file has room for leaves NaN and -1.
void ResultColumns::add_logprobs(const ResultRecord& record) {
  constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
  if (logprobs_wanted_) {
    std::vector<float>& out = logprobs_.waiting;
    out.insert(out.end(), record.logprobs.begin(), record.logprobs.end());
    out.insert(out.end(), record.tokens.size() - record.logprobs.size(), kNone);
  }
  const std::int32_t have = std::min(record.top_k, top_k_);
  for (std::size_t token = 0; top_k_ > 0 && token < record.tokens.size(); ++token) {
    for (std::int32_t k = 0; k < top_k_; ++k) {
      const bool given = k < have;
      const std::size_t at = token * static_cast<std::size_t>(record.top_k) + static_cast<std::size_t>(k);
      top_tokens_.waiting.push_back(given ? record.top[at].token : -1);
      top_logprobs_.waiting.push_back(given && record.top[at].token >= 0 ? record.top[at].logprob : kNone);
    }
  }
}

template <class Visit>
void ResultColumns::for_each_column(const Visit& visit) {
  if (text_ids_) {
    visit(text_id_);
  } else {
    visit(number_id_);
  }
  visit(row_), visit(sample_), visit(text_), visit(error_), visit(tokens_), visit(offsets_),
      visit(finish_reason_);
  visit(prompt_tokens_), visit(output_tokens_), visit(cached_tokens_);
  visit(started_), visit(first_token_), visit(finished_);
  if (logprobs_wanted_) visit(logprobs_);
  if (top_k_ > 0) visit(top_tokens_), visit(top_logprobs_);
}

void ResultColumns::flush(bool last) {
  for_each_column([last](auto& column) { column.flush(last); });
  waiting_bytes_ = 0;
}

void ResultColumns::finish() {
  flush(true);
}

}  // namespace nightshift::io
