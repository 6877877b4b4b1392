// SPDX-License-Identifier: Apache-2.0
#include "io/journal_source.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace nightshift::io {
namespace {

constexpr std::size_t kOpenFiles = 64;  // journals kept open while records are read; a job may have thousands
constexpr std::size_t kFirstRead = 4096;  // most records come with one read

}  // namespace

void RecordSource::read(const Entry& entry, ResultRecord& record) {
  if (load(entry, record)) return;
  throw Error(fmt::format("{}: the record of row {} at byte {} has changed since it was written",
                          files_[entry.file()].path, entry.row(), entry.offset()),
              "the storage returns wrong data; start the job again to repeat the rows that are lost");
}

bool RecordSource::read(const Entry& entry, ProgressRecord& record) {
  return load(entry, record);
}

template <class Record>
bool RecordSource::load(const Entry& entry, Record& record) {
  const FileHandle& file = open(entry.file());
  bytes_.resize(kFirstRead);
  bytes_.resize(file.read_at(entry.offset(), bytes_));
  RecordHeader header{};
  if (bytes_.size() < sizeof header) return false;
  std::memcpy(&header, bytes_.data(), sizeof header);
  if (!checks(header, files_[entry.file()].nonce) || !complete(file, entry, header)) return false;
  const auto payload = std::span<const char>(bytes_).subspan(sizeof header, header.length);
  return payload_checks(header, payload) && decode_payload(header, payload, record);
}

bool RecordSource::complete(const FileHandle& file, const Entry& entry, const RecordHeader& header) {
  const std::size_t have = bytes_.size(), need = sizeof header + header.length;
  if (have >= need) return true;
  if (entry.offset() + need > file.size()) return false;
  bytes_.resize(need);
  return file.read_at(entry.offset() + have, std::span(bytes_).subspan(have)) == need - have;
}

const FileHandle& RecordSource::open(std::uint64_t index) {
  auto it = std::find_if(open_.begin(), open_.end(), [&](const auto& entry) { return entry.first == index; });
  if (it == open_.end()) {
    if (open_.size() == kOpenFiles) open_.pop_back();
    open_.emplace_front(index, FileHandle(files_[index].path, O_RDONLY));
  } else {
    open_.splice(open_.begin(), open_, it);
  }
  return open_.front().second;
}

}  // namespace nightshift::io
