// SPDX-License-Identifier: Apache-2.0
// The payloads of a journal's records, one layout per kind.
#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "io/bytes.h"
#include "io/journal_format.h"

namespace nightshift::io {
namespace {

// What both kinds have: arrays with one entry, or one row, per token.
template <class Record>
bool arrays_fit(const Record& r) {
  return (r.logprobs.empty() || r.logprobs.size() == r.tokens.size()) &&
         r.top.size() == r.tokens.size() * static_cast<std::size_t>(r.top_k);
}

void put_sizes(std::vector<char>& out, std::initializer_list<std::size_t> sizes) {
  for (const std::size_t size : sizes) put(out, static_cast<std::uint32_t>(size));
}

template <class Record>
void put_arrays(std::vector<char>& out, const Record& r) {
  put_bytes(out, r.tokens.data(), r.tokens.size() * sizeof(TokenId));
  put_bytes(out, r.logprobs.data(), r.logprobs.size() * sizeof(float));
  put_bytes(out, r.top.data(), r.top.size() * sizeof(TokenLogprob));
}

// sizes: of tokens, logprobs and top.
template <class Record>
void get_arrays(ByteReader& in, const std::uint32_t* sizes, Record& r) {
  r.tokens = in.get_array<TokenId>(sizes[0]);
  r.logprobs = in.get_array<float>(sizes[1]);
  r.top = in.get_array<TokenLogprob>(sizes[2]);
}

template <class Record>
void take_key(const RecordHeader& header, Record& record) {
  record.row = header.row;
  record.sample = static_cast<std::int32_t>(header.sample);
  record.samples = static_cast<std::int32_t>(header.samples);
}

bool is_kind(const RecordHeader& header, RecordKind kind) {
  return header.kind == static_cast<std::uint8_t>(kind);
}

void encode_payload(const ResultRecord& record, std::vector<char>& out) {
  put(out, static_cast<std::uint8_t>(record.finish_reason));
  put(out, std::uint8_t{0});
  put(out, static_cast<std::uint16_t>(record.top_k));
  put(out, record.prompt_tokens);
  put(out, record.cached_tokens);
  for (const double time : {record.started_s, record.first_token_s, record.finished_s}) put(out, time);
  put_sizes(out, {record.error.size(), record.text.size(), record.tokens.size(), record.logprobs.size(),
                  record.top.size()});
  put_bytes(out, record.error.data(), record.error.size());
  put_bytes(out, record.text.data(), record.text.size());
  put_arrays(out, record);
}

void encode_payload(const ProgressRecord& record, std::vector<char>& out) {
  put(out, record.first);
  put(out, static_cast<std::uint32_t>(record.top_k));
  for (const double time : {record.started_s, record.first_token_s}) put(out, time);
  put_sizes(out, {record.tokens.size(), record.logprobs.size(), record.top.size()});
  put_arrays(out, record);
}

void check_record(const ResultRecord&) {}
void check_record(const ProgressRecord& r) {
  NS_CHECK(r.first >= 0 && !r.tokens.empty(), "row {}: {} tokens of an answer from {} on", r.row,
           r.tokens.size(), r.first);
}

template <class Record>
void append_record(RecordKind kind, const Record& r, std::uint64_t nonce, std::vector<char>& out) {
  NS_CHECK(
      r.row < kMaxRows && r.samples >= 1 && r.samples <= kMaxSamples && r.sample >= 0 && r.sample < r.samples,
      "row {}, sample {} of {}", r.row, r.sample, r.samples);
  NS_CHECK(r.top_k >= 0 && r.top_k <= 0xffff && arrays_fit(r),
           "{} logprobs and {} alternatives of {} for {} tokens", r.logprobs.size(), r.top.size(), r.top_k,
           r.tokens.size());
  check_record(r);
  const std::size_t start = out.size();
  out.resize(start + sizeof(RecordHeader));
  encode_payload(r, out);
  const std::size_t length = out.size() - start - sizeof(RecordHeader);
  if (length > kMaxPayload) {
    out.resize(start);
    throw Error(fmt::format("row {}: an answer of {} bytes is larger than a journal record", r.row, length));
  }
  RecordHeader header{};
  header.kind = static_cast<std::uint8_t>(kind);
  header.row = r.row;
  header.sample = static_cast<std::uint32_t>(r.sample);
  header.samples = static_cast<std::uint32_t>(r.samples);
  seal(header, std::span<const char>(out).subspan(start + sizeof header), nonce);
  std::memcpy(out.data() + start, &header, sizeof header);
}

}  // namespace

bool ResultRecord::same_answer(const ResultRecord& other) const {
  const auto same_bits = [](const auto& a, const auto& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;  // NaN equals NaN
  };
  return row == other.row && sample == other.sample && samples == other.samples &&
         finish_reason == other.finish_reason && error == other.error && tokens == other.tokens &&
         text == other.text && prompt_tokens == other.prompt_tokens &&
         std::equal(logprobs.begin(), logprobs.end(), other.logprobs.begin(), other.logprobs.end(),
                    same_bits) &&
         top_k == other.top_k &&
         std::equal(top.begin(), top.end(), other.top.begin(), other.top.end(), same_bits);
}

void encode_record(const ResultRecord& record, std::uint64_t nonce, std::vector<char>& out) {
  append_record(RecordKind::result, record, nonce, out);
}

void encode_record(const ProgressRecord& record, std::uint64_t nonce, std::vector<char>& out) {
  append_record(RecordKind::progress, record, nonce, out);
}

bool decode_payload(const RecordHeader& header, std::span<const char> payload, ResultRecord& record) {
  ByteReader in(payload);
  take_key(header, record);
  const auto reason = in.get<std::uint8_t>();
  in.get<std::uint8_t>();
  record.finish_reason = static_cast<FinishReason>(reason);
  record.top_k = in.get<std::uint16_t>();
  record.prompt_tokens = in.get<std::int32_t>();
  record.cached_tokens = in.get<std::int32_t>();
  for (double* time : {&record.started_s, &record.first_token_s, &record.finished_s})
    *time = in.get<double>();
  std::uint32_t sizes[5];
  for (std::uint32_t& size : sizes) size = in.get<std::uint32_t>();
  record.error = in.get_text(sizes[0]);
  record.text = in.get_text(sizes[1]);
  get_arrays(in, sizes + 2, record);
  return is_kind(header, RecordKind::result) && in.ok() && in.at_end() &&
         reason <= static_cast<std::uint8_t>(kLastFinishReason) && arrays_fit(record);
}

bool decode_payload(const RecordHeader& header, std::span<const char> payload, ProgressRecord& record) {
  ByteReader in(payload);
  take_key(header, record);
  record.first = in.get<std::int32_t>();
  const auto top_k = in.get<std::uint32_t>();
  record.top_k = static_cast<std::int32_t>(top_k);
  for (double* time : {&record.started_s, &record.first_token_s}) *time = in.get<double>();
  std::uint32_t sizes[3];
  for (std::uint32_t& size : sizes) size = in.get<std::uint32_t>();
  get_arrays(in, sizes, record);
  return is_kind(header, RecordKind::progress) && in.ok() && in.at_end() && record.first >= 0 &&
         top_k <= 0xffff && arrays_fit(record);
}

}  // namespace nightshift::io
