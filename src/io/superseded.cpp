// SPDX-License-Identifier: Apache-2.0
#include "io/superseded.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "core/check.h"
#include "io/bytes.h"
#include "io/files.h"
#include "io/journal_format.h"

namespace nightshift::io {
namespace {

constexpr std::string_view kMagic = "NSSUPR\r\n";
constexpr std::size_t kHeaderBytes = kMagic.size() + sizeof(std::uint64_t);

std::string path_in(const std::string& directory) {
  return directory + "/superseded";
}

std::uint64_t last_word(std::span<const char> bytes) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes.data() + bytes.size() - sizeof word, sizeof word);
  return word;
}

// The record at `offset`, whose header has been checked; false when it is not a result.
bool read_result(const FileHandle& file, const RecordHeader& header, std::uint64_t offset,
                 ResultRecord& out) {
  if (header.kind != static_cast<std::uint8_t>(RecordKind::result)) return false;
  std::vector<char> payload(header.length);
  payload.resize(file.read_at(offset + sizeof header, payload));
  return payload.size() == header.length && decode_payload(header, payload, out);
}

}  // namespace

Superseded Superseded::load(const std::string& directory) {
  Superseded out;
  const std::string path = path_in(directory);
  if (::access(path.c_str(), F_OK) != 0) return out;
  out.file_.emplace(FileHandle(path, O_RDONLY));
  const std::span<const char> bytes = out.file_->bytes();
  ByteReader in(bytes);
  const std::string magic = in.get_text(kMagic.size());
  const auto count = in.get<std::uint64_t>();
  const bool whole = in.ok() && magic == kMagic && count <= bytes.size() / sizeof(Record) &&
                     bytes.size() == kHeaderBytes + count * sizeof(Record) + sizeof(std::uint64_t);
  if (!whole || last_word(bytes) != XXH3_64bits(bytes.data(), bytes.size() - sizeof(std::uint64_t)))
    throw Error(path + " is damaged", "remove it: the failed rows that it names then count again");
  return out;
}

std::span<const Superseded::Record> Superseded::saved() const {
  if (!file_) return {};
  const std::span<const char> bytes = file_->bytes();
  return {reinterpret_cast<const Record*>(bytes.data() + kHeaderBytes),
          (bytes.size() - kHeaderBytes) / sizeof(Record)};  // the checksum is half a record
}

void Superseded::save(const std::string& directory) const {
  const std::span<const Record> before = saved();
  std::vector<Record> all(before.begin(), before.end());
  all.insert(all.end(), added_.begin(), added_.end());
  std::sort(all.begin(), all.end());
  std::vector<char> out;
  put_bytes(out, kMagic.data(), kMagic.size());
  put(out, std::uint64_t{all.size()});
  put_bytes(out, all.data(), all.size() * sizeof(Record));
  put(out, std::uint64_t{XXH3_64bits(out.data(), out.size())});
  write_file_atomically(path_in(directory), {out.data(), out.size()});
}

void Superseded::add(const RecordHeader& header, std::uint64_t offset) {
  added_.push_back({header.hash, offset});
}

bool Superseded::holds(const RecordHeader& header, std::uint64_t offset) const {
  const std::span<const Record> records = saved();
  return std::binary_search(records.begin(), records.end(), Record{header.hash, offset});
}

std::uint64_t supersede_answers(const std::string& directory,
                                const std::function<bool(const ResultRecord&)>& which) {
  Superseded list = Superseded::load(directory);
  std::uint64_t found = 0;
  ResultRecord record;
  for (const std::string& path : list_journals(directory)) {
    const FileHandle file(path, O_RDONLY);
    scan_journal(file, [&](const RecordHeader& header, std::uint64_t offset) {
      if (list.holds(header, offset) || !read_result(file, header, offset, record) || !which(record)) return;
      list.add(header, offset);
      ++found;
    });
  }
  if (found > 0) list.save(directory);
  return found;
}

}  // namespace nightshift::io
