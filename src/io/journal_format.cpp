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

}  // namespace

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

void seal(RecordHeader& header, std::span<const char> payload, std::uint64_t nonce) {
  std::memcpy(header.mark, "NSR", 3);
  header.length = static_cast<std::uint32_t>(payload.size());
  header.payload_hash = XXH3_64bits(payload.data(), payload.size());
  header.hash = hash_before_last(header, nonce);
}

std::optional<FileHeader> read_file_header(const FileHandle& file) {
  FileHeader header{};
  const std::size_t read = file.read_at(0, {reinterpret_cast<char*>(&header), sizeof header});
  if (read < sizeof header || !checks(header)) return std::nullopt;
  if (header.version != kJournalVersion || header.header_bytes != sizeof header) {
    throw Error(fmt::format("{} is a journal of version {}; this program reads version {}", file.path(),
                            header.version, kJournalVersion),
                "finish the job with the version that began it, or start again with --restart");
  }
  return header;
}

JournalScan scan_journal(const FileHandle& file,
                         const std::function<void(const RecordHeader&, std::uint64_t)>& visit) {
  Window window(file);
  JournalScan scan;
  scan.file_bytes = window.size();
  const std::optional<FileHeader> file_header = read_file_header(file);
  if (!file_header) return scan;
  scan.has_header = true;
  scan.header = *file_header;
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
