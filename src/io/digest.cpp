// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <xxhash.h>

#include <memory>

#include "io/files.h"
#include "io/prompts.h"

namespace nightshift::io {
namespace {

constexpr std::uint64_t kWholeBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kPiece = 1u << 20;
constexpr std::uint64_t kPieces = 1024;

}  // namespace

std::string InputDigest::text() const {
  return fmt::format("xxh3-{:016x}-{}{}", hash, bytes, whole ? "" : "-sampled");
}

InputDigest digest_file(const std::string& path) {
  const FileHandle file(path, O_RDONLY);
  InputDigest digest{file.size(), 0, true};
  digest.whole = digest.bytes <= kWholeBytes;
  const std::uint64_t pieces = digest.whole ? (digest.bytes + kPiece - 1) / kPiece : kPieces;
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<char> buffer(kPiece);
  for (std::uint64_t i = 0; i < pieces; ++i) {
    // Evenly spaced, the last piece ending with the file.
    const std::uint64_t step = digest.whole ? kPiece : (digest.bytes - kPiece) / (kPieces - 1);
    const bool tail = !digest.whole && i + 1 == pieces;
    const std::uint64_t offset = tail ? digest.bytes - kPiece : i * step;
    XXH3_64bits_update(state.get(), buffer.data(), file.read_at(offset, buffer));
  }
  digest.hash = XXH3_64bits_digest(state.get());
  return digest;
}

}  // namespace nightshift::io
