// SPDX-License-Identifier: Apache-2.0
// A journal folder with one file of arbitrary bytes. Checksums stand between a fuzzer and the decoders, so an
// input whose first byte is odd has its checksums put right: header and record headers where they would lie.
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "fuzz/support.h"
#include "io/journal.h"
#include "io/journal_format.h"

using namespace nightshift;

namespace {

void repair_file_header(std::string& bytes, io::FileHeader& header) {
  std::memcpy(&header, bytes.data(), sizeof header);
  std::memcpy(header.magic, "NSJRNL\r\n", sizeof header.magic);
  header.header_bytes = sizeof header;
  header.hash = XXH3_64bits(&header, sizeof header - sizeof header.hash);
  std::memcpy(bytes.data(), &header, sizeof header);
}

// Makes the bytes at `at` a record that checks; returns where it ends. A length beyond the file stays: torn.
std::size_t repair_record(std::string& bytes, std::size_t at, std::uint64_t nonce) {
  io::RecordHeader header{};
  std::memcpy(&header, bytes.data() + at, sizeof header);
  const std::size_t payload = at + sizeof header;
  std::memcpy(header.mark, "NSR", sizeof header.mark);
  header.length %= 4096;
  const std::size_t length = std::min<std::size_t>(header.length, bytes.size() - payload);
  header.payload_hash = XXH3_64bits(bytes.data() + payload, length);
  header.hash = XXH3_64bits_withSeed(&header, sizeof header - sizeof header.hash, nonce);
  std::memcpy(bytes.data() + at, &header, sizeof header);
  return payload + length;
}

void repair(std::string& bytes, io::FileHeader& header) {
  if (bytes.size() < sizeof header) return;
  repair_file_header(bytes, header);
  for (std::size_t at = sizeof header; at + sizeof(io::RecordHeader) <= bytes.size();)
    at = repair_record(bytes, at, header.nonce);
}

void read_all(const io::JournalIndex& index) {
  std::uint64_t keys = 0, records = 0;
  index.for_each_key([&](PromptRow row, std::int32_t sample, std::int32_t) {
    ++keys;
    fuzz::expect(index.committed(row, sample), "a key is not committed");
  });
  fuzz::expect(keys == index.size(), "keys and size differ");
  index.for_each([&](const io::ResultRecord& record) {
    ++records;
    fuzz::expect(!index.read(record.row).empty(), "a row cannot be read again");
  });
  fuzz::expect(records == index.size(), "records and size differ");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  if (size < 1) return 0;
  std::string bytes(fuzz::as_text(data + 1, size - 1));
  io::FileHeader header{};
  if (data[0] % 2 == 1) repair(bytes, header);
  folder.remove("rank-0.journal.damaged");
  folder.write("rank-0.journal", bytes);
  const std::string path = folder.path();
  fuzz::allow_errors([&] {
    const io::JournalIndex before(path, header.job);
    fuzz::allow_errors([&] { read_all(before); });
    io::cut_torn_tails(path);
    const io::JournalIndex after(path, header.job);
    fuzz::expect(after.size() == before.size(), "cutting the torn tail changed the records");
    fuzz::expect(after.health().torn_bytes == 0, "a torn tail was left");
  });
  return 0;
}
