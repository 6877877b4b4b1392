// SPDX-License-Identifier: Apache-2.0
#include "io/checkpoints.h"

#include <algorithm>

#include "core/check.h"
#include "io/bytes.h"
#include "io/checkpoint_pieces.h"

namespace nightshift::io {
namespace {

template <class T>
void append_from(std::vector<T>& to, const std::vector<T>& from, std::size_t begin) {
  to.insert(to.end(), from.begin() + static_cast<std::ptrdiff_t>(begin), from.end());
}

// `whole`, with what `piece` has behind its end; false when there is a gap between the two.
bool join(ProgressRecord& whole, const ProgressRecord& piece) {
  const std::size_t have = whole.tokens.size(), first = static_cast<std::size_t>(piece.first);
  if (first > have || piece.top_k != whole.top_k || piece.logprobs.empty() != whole.logprobs.empty())
    return false;
  if (first + piece.tokens.size() <= have) return true;
  const std::size_t known = have - first;
  append_from(whole.tokens, piece.tokens, known);
  if (!piece.logprobs.empty()) append_from(whole.logprobs, piece.logprobs, known);
  append_from(whole.top, piece.top, known * static_cast<std::size_t>(piece.top_k));
  return true;
}

// Pieces of one sample, into the longest beginning of it that they hold; no tokens when the first is missing.
ProgressRecord assemble(std::vector<ProgressRecord>& pieces) {
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  if (pieces.empty() || pieces.front().first != 0) return {};
  ProgressRecord whole = std::move(pieces.front());
  for (std::size_t i = 1; i < pieces.size() && join(whole, pieces[i]); ++i) {
  }
  return whole;
}

}  // namespace

Checkpoints::Checkpoints() : pieces_(std::make_shared<const Pieces>()) {}

std::uint64_t Checkpoints::size() const {
  std::uint64_t samples = 0, last = ~std::uint64_t{0};
  for (const Entry& entry : pieces_->entries) {
    samples += entry.identity() != last;
    last = entry.identity();
  }
  return samples;
}

std::vector<ProgressRecord> Checkpoints::read(PromptRow row) const {
  const std::vector<Entry>& all = pieces_->entries;
  auto at = std::lower_bound(all.begin(), all.end(), row,
                             [](const Entry& entry, PromptRow value) { return entry.row() < value; });
  RecordSource source(pieces_->files);
  std::vector<ProgressRecord> found;
  while (at != all.end() && at->row() == row) {
    std::vector<ProgressRecord> pieces;
    for (const std::uint64_t sample = at->identity(); at != all.end() && at->identity() == sample; ++at) {
      if (!source.read(*at, pieces.emplace_back())) pieces.pop_back();
    }
    ProgressRecord whole = assemble(pieces);
    if (!whole.tokens.empty()) found.push_back(std::move(whole));
  }
  return found;
}

std::string Checkpoints::encode() const {
  std::vector<char> out;
  put(out, std::uint64_t{pieces_->files.size()});
  for (const JournalFile& file : pieces_->files) {
    put(out, file.nonce);
    put(out, std::uint64_t{file.path.size()});
    put_bytes(out, file.path.data(), file.path.size());
  }
  put(out, std::uint64_t{pieces_->entries.size()});
  put_bytes(out, pieces_->entries.data(), pieces_->entries.size() * sizeof(Entry));
  return {out.begin(), out.end()};
}

Checkpoints Checkpoints::decode(std::string_view bytes) {
  ByteReader in(std::span(bytes.data(), bytes.size()));
  auto pieces = std::make_shared<Pieces>();
  const auto files = in.get<std::uint64_t>();
  for (std::uint64_t i = 0; i < files && in.ok(); ++i) {
    const auto nonce = in.get<std::uint64_t>();
    pieces->files.push_back({in.get_text(in.get<std::uint64_t>()), 0, nonce});
  }
  pieces->entries = in.get_array<Entry>(in.get<std::uint64_t>());
  const auto known = [&](const Entry& entry) { return entry.file() < files; };
  if (!in.ok() || !in.at_end() || !std::all_of(pieces->entries.begin(), pieces->entries.end(), known))
    throw Error(fmt::format("damaged list of checkpoints, {} bytes", bytes.size()),
                "all ranks must run the same build of nightshift");
  return Checkpoints(std::move(pieces));
}

}  // namespace nightshift::io
