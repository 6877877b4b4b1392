// SPDX-License-Identifier: Apache-2.0
#include "io/journal_format.h"

#include <fcntl.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <random>

#include "core/check.h"
#include "io/bytes.h"

namespace nightshift::io {
namespace {

constexpr char kMagic[8] = {'N', 'S', 'J', 'R', 'N', 'L', '\r', '\n'};
constexpr std::size_t kWindow = 4u << 20;

template <class Header>
std::uint64_t hash_before_last(const Header& header, std::uint64_t seed) {
  return XXH3_64bits_withSeed(&header, sizeof header - sizeof header.hash, seed);
}

// Bytes of a file through a sliding window, so that many small records cost few reads.
class Window {
 public:
  explicit Window(const FileHandle& file) : file_(file), size_(file.size()) {}

  // `length` bytes at `offset`; empty when the file ends before.
  std::span<const char> at(std::uint64_t offset, std::uint64_t length) {
    if (offset > size_ || length > size_ - offset) return {};
    if (offset < start_ || offset + length > start_ + bytes_.size()) load(offset, length);
    if (offset + length > start_ + bytes_.size()) return {};  // shrank while we read
    return std::span(bytes_).subspan(offset - start_, length);
  }
  // What lies in the window from `offset` on, at least `least` bytes; empty when the file ends before.
  std::span<const char> from(std::uint64_t offset, std::uint64_t least) {
    if (at(offset, least).empty()) return {};
    return std::span<const char>(bytes_).subspan(offset - start_);
  }
  std::uint64_t size() const { return size_; }

 private:
  void load(std::uint64_t offset, std::uint64_t length) {
    bytes_.resize(std::min<std::uint64_t>(std::max<std::uint64_t>(kWindow, length), size_ - offset));
    bytes_.resize(file_.read_at(offset, bytes_));
    start_ = offset;
  }

  const FileHandle& file_;
  std::uint64_t size_, start_ = 0;
  std::vector<char> bytes_;
};

template <class T>
bool load(Window& window, std::uint64_t offset, T& out) {
  const std::span<const char> bytes = window.at(offset, sizeof(T));
  if (bytes.empty()) return false;
  std::memcpy(&out, bytes.data(), sizeof(T));
  return true;
}

bool record_at(Window& window, std::uint64_t offset, std::uint64_t nonce, RecordHeader& header) {
  if (!load(window, offset, header) || !checks(header, nonce)) return false;
  const std::span<const char> payload = window.at(offset + sizeof header, header.length);
  return payload.size() == header.length && payload_checks(header, payload);
}

// The next place after `offset` where a record checks, or the file's size.
std::uint64_t next_record(Window& window, std::uint64_t offset, std::uint64_t nonce, RecordHeader& header) {
  constexpr std::string_view kMark = "NSR";
  for (;;) {
    const std::span<const char> bytes = window.from(offset, sizeof(RecordHeader));
    if (bytes.empty()) return window.size();
    const std::size_t found = std::string_view(bytes.data(), bytes.size()).find(kMark);
    if (found == std::string_view::npos) {
      offset += bytes.size() - (kMark.size() - 1);  // the mark may straddle the border
      continue;
    }
    offset += found;
    if (record_at(window, offset, nonce, header)) return offset;
    ++offset;
  }
}

void encode_payload(const ResultRecord& record, std::vector<char>& out) {
  put(out, static_cast<std::uint8_t>(record.finish_reason));
  put(out, std::uint8_t{0});
  put(out, static_cast<std::uint16_t>(record.top_k));
  put(out, record.prompt_tokens);
  put(out, record.cached_tokens);
  for (const double time : {record.started_s, record.first_token_s, record.finished_s}) put(out, time);
  for (const std::size_t size : {record.error.size(), record.text.size(), record.tokens.size(),
                                 record.logprobs.size(), record.top.size()}) {
    put(out, static_cast<std::uint32_t>(size));
  }
  put_bytes(out, record.error.data(), record.error.size());
  put_bytes(out, record.text.data(), record.text.size());
  put_bytes(out, record.tokens.data(), record.tokens.size() * sizeof(TokenId));
  put_bytes(out, record.logprobs.data(), record.logprobs.size() * sizeof(float));
  put_bytes(out, record.top.data(), record.top.size() * sizeof(TokenLogprob));
}

void check_record(const ResultRecord& r) {
  NS_CHECK(
      r.row < kMaxRows && r.samples >= 1 && r.samples <= kMaxSamples && r.sample >= 0 && r.sample < r.samples,
      "row {}, sample {} of {}", r.row, r.sample, r.samples);
  NS_CHECK(r.logprobs.empty() || r.logprobs.size() == r.tokens.size(), "{} logprobs for {} tokens",
           r.logprobs.size(), r.tokens.size());
  NS_CHECK(r.top_k >= 0 && r.top_k <= 0xffff &&
               r.top.size() == r.tokens.size() * static_cast<std::size_t>(r.top_k),
           "{} alternatives for {} tokens of {}", r.top.size(), r.tokens.size(), r.top_k);
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

FileHeader make_file_header(std::uint64_t job, int rank) {
  FileHeader header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kJournalVersion;
  header.header_bytes = sizeof header;
  header.job = job;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  header.created_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(now).count());
  header.rank = static_cast<std::uint32_t>(rank);
  std::random_device random;
  header.nonce = (std::uint64_t{random()} << 32) | random();
  header.hash = hash_before_last(header, 0);
  return header;
}

bool checks(const FileHeader& header) {
  return std::memcmp(header.magic, kMagic, sizeof kMagic) == 0 && header.hash == hash_before_last(header, 0);
}

bool checks(const RecordHeader& header, std::uint64_t nonce) {
  return std::memcmp(header.mark, "NSR", 3) == 0 && header.length <= kMaxPayload &&
         header.hash == hash_before_last(header, nonce) && header.row < kMaxRows && header.samples >= 1 &&
         header.samples <= static_cast<std::uint32_t>(kMaxSamples) && header.sample < header.samples;
}

bool payload_checks(const RecordHeader& header, std::span<const char> payload) {
  return XXH3_64bits(payload.data(), payload.size()) == header.payload_hash;
}

void encode_record(const ResultRecord& record, std::uint64_t nonce, std::vector<char>& out) {
  check_record(record);
  const std::size_t start = out.size();
  out.resize(start + sizeof(RecordHeader));
  encode_payload(record, out);
  const std::size_t length = out.size() - start - sizeof(RecordHeader);
  if (length > kMaxPayload) {
    out.resize(start);
    throw Error(
        fmt::format("row {}: an answer of {} bytes is larger than a journal record", record.row, length));
  }
  RecordHeader header{};
  std::memcpy(header.mark, "NSR", 3);
  header.kind = static_cast<std::uint8_t>(RecordKind::result);
  header.length = static_cast<std::uint32_t>(length);
  header.row = record.row;
  header.sample = static_cast<std::uint32_t>(record.sample);
  header.samples = static_cast<std::uint32_t>(record.samples);
  header.payload_hash = XXH3_64bits(out.data() + start + sizeof header, length);
  header.hash = hash_before_last(header, nonce);
  std::memcpy(out.data() + start, &header, sizeof header);
}

bool decode_payload(const RecordHeader& header, std::span<const char> payload, ResultRecord& record) {
  ByteReader in(payload);
  record.row = header.row;
  record.sample = static_cast<std::int32_t>(header.sample);
  record.samples = static_cast<std::int32_t>(header.samples);
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
  record.tokens = in.get_array<TokenId>(sizes[2]);
  record.logprobs = in.get_array<float>(sizes[3]);
  record.top = in.get_array<TokenLogprob>(sizes[4]);
  return in.ok() && in.at_end() && reason <= static_cast<std::uint8_t>(kLastFinishReason) &&
         (record.logprobs.empty() || record.logprobs.size() == record.tokens.size()) &&
         record.top.size() == record.tokens.size() * static_cast<std::size_t>(record.top_k);
}

JournalScan scan_journal(const FileHandle& file,
                         const std::function<void(const RecordHeader&, std::uint64_t)>& visit) {
  Window window(file);
  JournalScan scan;
  scan.file_bytes = window.size();
  scan.has_header = load(window, 0, scan.header) && checks(scan.header);
  if (!scan.has_header) return scan;
  if (scan.header.version != kJournalVersion || scan.header.header_bytes != sizeof(FileHeader)) {
    throw Error(fmt::format("{} is a journal of version {}; this program reads version {}", file.path(),
                            scan.header.version, kJournalVersion),
                "finish the job with the version that began it, or start again with --restart");
  }
  std::uint64_t offset = scan.committed_end = sizeof(FileHeader);
  RecordHeader header{};
  while (offset < window.size()) {
    if (!record_at(window, offset, scan.header.nonce, header)) {
      offset = next_record(window, offset + 1, scan.header.nonce, header);
      if (offset == window.size()) break;
      scan.damaged_bytes += offset - scan.committed_end;
    }
    visit(header, offset);
    offset += sizeof header + header.length;
    scan.committed_end = offset;
  }
  return scan;
}

std::vector<std::string> list_journals(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.path().extension() == kJournalSuffix) paths.push_back(entry.path().string());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw_system_error("cannot list " + directory, error.value());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace nightshift::io
