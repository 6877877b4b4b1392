// SPDX-License-Identifier: Apache-2.0
#include "io/superseded.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <span>
#include <vector>

#include "core/check.h"
#include "io/bytes.h"
#include "io/files.h"
#include "io/journal_format.h"

namespace nightshift::io {
namespace {

constexpr std::string_view kMagic = "NSSUPR\r\n";
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 40;  // more records than a job can have

std::string path_in(const std::string& directory) {
  return directory + "/superseded";
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
  const std::string bytes = read_whole_file(path, kMaxBytes);
  ByteReader in(std::span<const char>(bytes.data(), bytes.size()));
  const std::string magic = in.get_text(kMagic.size());
  const auto count = in.get<std::uint64_t>();
  const bool whole = in.ok() && magic == kMagic && count <= bytes.size() / 16 &&
                     bytes.size() == kMagic.size() + 16 + 16 * count;
  for (std::uint64_t i = 0; whole && i < count; ++i) {
    const auto hash = in.get<std::uint64_t>();
    out.records_.emplace(hash, in.get<std::uint64_t>());
  }
  if (!whole || in.get<std::uint64_t>() != XXH3_64bits(bytes.data(), bytes.size() - sizeof(std::uint64_t)))
    throw Error(path + " is damaged", "remove it: the failed rows that it names then count again");
  return out;
}

void Superseded::save(const std::string& directory) const {
  std::vector<char> out;
  put_bytes(out, kMagic.data(), kMagic.size());
  put(out, std::uint64_t{records_.size()});
  for (const auto& [hash, offset] : records_) put(out, hash), put(out, offset);
  put(out, std::uint64_t{XXH3_64bits(out.data(), out.size())});
  write_file_atomically(path_in(directory), {out.data(), out.size()});
}

void Superseded::add(const RecordHeader& header, std::uint64_t offset) {
  records_.emplace(header.hash, offset);
}

bool Superseded::holds(const RecordHeader& header, std::uint64_t offset) const {
  return !records_.empty() && records_.contains({header.hash, offset});
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
