// SPDX-License-Identifier: Apache-2.0
#include "io/checkpoints.h"

#include <fcntl.h>

#include <algorithm>
#include <random>
#include <tuple>

#include "io/journal_format.h"
#include "io/support.h"

namespace nightshift::io {
namespace {

using test::make_record;
using test::Scratch;
using test::slurp;
using test::spill;

constexpr std::uint64_t kJob = 0x1234;
constexpr std::int32_t kTopK = 2;

// Tokens first .. end - 1 of a made-up answer, a function of (row, sample) alone. Odd rows have
// log-probabilities.
ProgressRecord make_piece(PromptRow row, std::int32_t first, std::int32_t end, std::int32_t sample = 0,
                          std::int32_t samples = 1) {
  ProgressRecord r;
  r.row = row;
  r.sample = sample;
  r.samples = samples;
  r.first = first;
  r.started_s = 0.5 + static_cast<double>(row);
  r.first_token_s = 1.5 + static_cast<double>(row);
  r.top_k = row % 2 == 1 ? kTopK : 0;
  for (std::int32_t i = first; i < end; ++i) {
    const auto token = static_cast<TokenId>(1000 * row) + 100 * sample + i;
    r.tokens.push_back(token);
    if (r.top_k > 0) r.logprobs.push_back(-0.25F * static_cast<float>(i));
    for (std::int32_t k = 0; k < r.top_k; ++k) r.top.push_back({token + k, -0.5F * static_cast<float>(k)});
  }
  return r;
}

void expect_same(const ProgressRecord& a, const ProgressRecord& b) {
  const auto alike = [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.token == y.token && x.logprob == y.logprob;
  };
  EXPECT_EQ(std::tuple(a.row, a.sample, a.samples, a.first, a.top_k, a.started_s, a.first_token_s),
            std::tuple(b.row, b.sample, b.samples, b.first, b.top_k, b.started_s, b.first_token_s));
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.logprobs, b.logprobs);
  EXPECT_TRUE(std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(), alike));
}

// One closed journal with these records; returns its path.
std::string write_pieces(const std::string& directory, const std::vector<ProgressRecord>& pieces) {
  ResultJournal journal(directory, 0, kJob);
  for (const ProgressRecord& piece : pieces) journal.append(piece);
  journal.close();
  return journal.path();
}

std::vector<ProgressRecord> read(const Scratch& scratch, PromptRow row) {
  return JournalIndex(scratch.root(), kJob).checkpoints().read(row);
}

// One answer under way, whose first `tokens` tokens are durable.
void expect_tokens(const std::vector<ProgressRecord>& found, PromptRow row, std::int32_t tokens) {
  if (tokens == 0) {
    EXPECT_TRUE(found.empty()) << row;
    return;
  }
  ASSERT_EQ(found.size(), 1u) << row;
  expect_same(found[0], make_piece(row, 0, tokens));
}

TEST(Checkpoints, PiecesJoinIntoTheAnswerSoFar) {
  const Scratch scratch;
  write_pieces(scratch.root(), {make_piece(3, 0, 5), make_piece(4, 0, 1), make_piece(3, 5, 6),
                                make_piece(3, 6, 40), make_piece(9, 0, 7, 1, 3), make_piece(9, 0, 2, 2, 3)});
  const JournalIndex index(scratch.root(), kJob);
  EXPECT_EQ(index.size(), 0u);
  EXPECT_EQ(index.committed_rows(), 0u);
  EXPECT_EQ(index.health().records, 0u);
  EXPECT_EQ(index.health().torn_bytes + index.health().damaged_bytes, 0u);
  EXPECT_EQ(index.checkpoints().size(), 4u);
  expect_tokens(index.checkpoints().read(3), 3, 40);
  expect_tokens(index.checkpoints().read(4), 4, 1);
  EXPECT_TRUE(index.checkpoints().read(5).empty());
  const auto samples = index.checkpoints().read(9);
  ASSERT_EQ(samples.size(), 2u);
  expect_same(samples[0], make_piece(9, 0, 7, 1, 3));
  expect_same(samples[1], make_piece(9, 0, 2, 2, 3));
}

TEST(Checkpoints, PiecesOfSeveralStartsOverlapOrLeaveGaps) {
  const Scratch scratch;
  write_pieces(scratch.root(), {make_piece(1, 0, 10), make_piece(2, 0, 4), make_piece(3, 0, 6)});
  write_pieces(scratch.root(), {make_piece(1, 3, 20), make_piece(2, 5, 9), make_piece(3, 2, 5)});
  write_pieces(scratch.root(), {make_piece(1, 20, 25), make_piece(2, 9, 12), make_piece(4, 1, 3)});
  expect_tokens(read(scratch, 1), 1, 25);
  expect_tokens(read(scratch, 2), 2, 4);  // token 4 is nowhere, and nothing behind it counts
  expect_tokens(read(scratch, 3), 3, 6);
  expect_tokens(read(scratch, 4), 4, 0);
}

TEST(Checkpoints, AResultMakesThemVoidWhereverItStands) {
  const Scratch scratch;
  {
    ResultJournal journal(scratch.root(), 0, kJob);
    for (const PromptRow row : {1u, 2u, 3u}) journal.append(make_piece(row, 0, 8));
    journal.append(make_record(1));
    journal.append(make_piece(5, 0, 3, 0, 2));
    journal.append(make_piece(5, 0, 3, 1, 2));
    journal.close();
  }
  ResultJournal journal(scratch.root(), 1, kJob);
  journal.append(make_record(2));
  journal.append(make_record(5, 0, 2));
  journal.close();
  const JournalIndex index(scratch.root(), kJob);
  EXPECT_EQ(index.size(), 3u);
  EXPECT_EQ(index.health().records, 3u);
  EXPECT_EQ(index.checkpoints().size(), 2u);
  expect_tokens(index.checkpoints().read(1), 1, 0);
  expect_tokens(index.checkpoints().read(2), 2, 0);
  expect_tokens(index.checkpoints().read(3), 3, 8);
  const auto other = index.checkpoints().read(5);
  ASSERT_EQ(other.size(), 1u);
  expect_same(other[0], make_piece(5, 0, 3, 1, 2));
}

TEST(Checkpoints, CutAtAnyByteLosesOnlyTheTornPiece) {
  const Scratch scratch;
  const std::string path =
      write_pieces(scratch.root(), {make_piece(1, 0, 3), make_piece(1, 3, 5), make_piece(1, 5, 9)});
  const std::string whole = slurp(path);
  std::vector<std::uint64_t> starts;
  scan_journal(FileHandle(path, O_RDONLY),
               [&](const RecordHeader&, std::uint64_t at) { starts.push_back(at); });
  ASSERT_EQ(starts.size(), 3u);
  for (std::uint64_t cut = starts[0]; cut < whole.size(); ++cut) {
    spill(path, whole.substr(0, cut));
    const std::int32_t tokens = cut < starts[1] ? 0 : cut < starts[2] ? 3 : 5;
    expect_tokens(read(scratch, 1), 1, tokens);
    const std::uint64_t end = tokens == 0 ? starts[0] : tokens == 3 ? starts[1] : starts[2];
    ASSERT_EQ(cut_torn_tails(scratch.root()), cut - end);
    ASSERT_EQ(std::filesystem::file_size(path), end);
    expect_tokens(read(scratch, 1), 1, tokens);
  }
}

TEST(Checkpoints, AnyFlippedBitCostsTokensAndNeverGivesWrongOnes) {
  const Scratch scratch;
  const std::string path =
      write_pieces(scratch.root(), {make_piece(7, 0, 4), make_piece(7, 4, 8), make_piece(7, 8, 12)});
  const std::string whole = slurp(path);
  std::mt19937_64 random(9);
  for (int trial = 0; trial < 2000; ++trial) {
    const std::size_t at = sizeof(FileHeader) + random() % (whole.size() - sizeof(FileHeader));
    std::string broken = whole;
    broken[at] = static_cast<char>(broken[at] ^ (1 << random() % 8));
    spill(path, whole);
    const JournalIndex before(scratch.root(), kJob);  // the damage comes behind its back
    spill(path, broken);
    const auto left =
        static_cast<std::int32_t>(4 * ((at - sizeof(FileHeader)) * 3 / (whole.size() - sizeof(FileHeader))));
    ASSERT_NO_FATAL_FAILURE(expect_tokens(read(scratch, 7), 7, left)) << at;
    ASSERT_NO_FATAL_FAILURE(expect_tokens(before.checkpoints().read(7), 7, left)) << at;
  }
}

TEST(Checkpoints, TravelToOtherProcesses) {
  const Scratch scratch;
  write_pieces(scratch.root(), {make_piece(1, 0, 3), make_piece(2, 0, 3)});
  write_pieces(scratch.root(), {make_piece(1, 3, 5)});
  std::string bytes = JournalIndex(scratch.root(), kJob).checkpoints().encode();
  const Checkpoints sent = Checkpoints::decode(bytes);
  EXPECT_EQ(sent.size(), 2u);
  expect_tokens(sent.read(1), 1, 5);
  expect_tokens(sent.read(2), 2, 3);
  EXPECT_EQ(Checkpoints::decode(Checkpoints().encode()).size(), 0u);
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW(Checkpoints::decode(std::string_view(bytes).substr(0, size)), Error) << size;
  EXPECT_THROW(Checkpoints::decode(bytes + "x"), Error);
  bytes.back() = '\x7f';  // the journal's number, in the last entry
  EXPECT_THROW(Checkpoints::decode(bytes), Error);
}

TEST(Checkpoints, PayloadLengthsAreNotTrusted) {
  std::vector<char> bytes;
  encode_record(make_piece(3, 0, 6), 1, bytes);
  RecordHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const std::vector<char> payload(bytes.begin() + sizeof header, bytes.end());
  ProgressRecord record;
  ASSERT_TRUE(decode_payload(header, payload, record));
  expect_same(record, make_piece(3, 0, 6));
  for (std::size_t field = 24; field < 36; field += 4) {  // the three sizes
    std::vector<char> broken = payload;
    const std::uint32_t bomb = 0xfffffff0;
    std::memcpy(broken.data() + field, &bomb, sizeof bomb);
    EXPECT_FALSE(decode_payload(header, broken, record)) << field;
    EXPECT_LT(record.tokens.capacity() + record.top.capacity(), 1u << 20);
  }
  ResultRecord result;
  EXPECT_FALSE(decode_payload(header, payload, result)) << "a piece is no result";
}

TEST(Checkpoints, NonsenseIsRefusedAtTheDoor) {
  const Scratch scratch;
  ResultJournal journal(scratch.root(), 0, kJob);
  EXPECT_THROW(journal.append(make_piece(1, 3, 3)), Error);   // no tokens
  EXPECT_THROW(journal.append(make_piece(1, -1, 3)), Error);  // before the beginning
  ProgressRecord piece = make_piece(1, 0, 3);
  piece.logprobs.pop_back();
  EXPECT_THROW(journal.append(piece), Error);
  journal.append(make_piece(2, 0, 3));
  journal.close();
  EXPECT_EQ(JournalIndex(scratch.root(), kJob).checkpoints().size(), 1u);
}

}  // namespace
}  // namespace nightshift::io
