// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint_reader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <set>

#include "core/check.h"
#include "model/golden_models.h"

namespace nightshift::test {
namespace {

using model::CheckpointPiece;
using model::CheckpointReader;

// A checkpoint of two files, opened.
struct TwoFiles {
  TempDir directory;
  model::ModelFiles files;
  TwoFiles() {
    Written how;
    how.shards = 2;
    write_model(read_golden(golden_names().front()), directory.path(), how);
    files = model::open_model_files(directory.path());
  }
  std::filesystem::path path(int file) const {
    return files.checkpoint.files[static_cast<std::size_t>(file)].path;
  }
};

std::string content(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Checks a piece against the file's bytes and marks its rows.
using Seen = std::set<std::pair<const model::WeightTensor*, std::int64_t>>;
void check(const CheckpointPiece& piece, const std::vector<std::string>& contents, Seen& seen) {
  const model::TensorInfo& tensor = *piece.weight->tensor;
  const std::size_t row = tensor.bytes / static_cast<std::size_t>(piece.weight->shape.rows);
  const std::string_view file = contents[static_cast<std::size_t>(tensor.file)];
  const auto expected = file.substr(tensor.offset + static_cast<std::size_t>(piece.first_row) * row,
                                    static_cast<std::size_t>(piece.rows) * row);
  ASSERT_EQ(piece.data.size(), expected.size()) << tensor.name;
  EXPECT_EQ(std::memcmp(piece.data.data(), expected.data(), expected.size()), 0) << tensor.name;
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(piece.data.data()) % 64, 0U);
  for (std::int64_t r = 0; r < piece.rows; ++r)
    EXPECT_TRUE(seen.emplace(piece.weight, piece.first_row + r).second)
        << tensor.name << " row " << piece.first_row + r << " came twice";
}

std::vector<std::string> contents_of(const TwoFiles& model) {
  return {content(model.path(0)), content(model.path(1))};
}

std::size_t all_rows(const model::ModelFiles& files) {
  std::size_t rows = 0;
  for (const auto& weight : files.weights) rows += static_cast<std::size_t>(weight.shape.rows);
  return rows;
}

TEST(CheckpointReader, EveryRowComesOnceWithTheBytesOfTheFile) {
  const TwoFiles model;
  const auto contents = contents_of(model);
  std::uint64_t most = 0;
  for (const std::size_t piece_bytes : {std::size_t{1}, std::size_t{20'000}, std::size_t{1} << 30}) {
    const std::uint64_t pieces = CheckpointReader::pieces(model.files, piece_bytes);
    CheckpointReader reader(model.files, CheckpointReader::every_piece(pieces), piece_bytes);
    EXPECT_EQ(reader.pieces(), pieces);
    Seen seen;
    std::uint64_t count = 0;
    for (; const CheckpointPiece* piece = reader.next(); ++count) {
      check(*piece, contents, seen);
      const bool half_panels =
          piece->weight->weight == model::Weight::gate || piece->weight->weight == model::Weight::up;
      const std::int64_t unit = half_panels ? 32 : 64;
      EXPECT_EQ(piece->first_row % unit, 0);
      EXPECT_TRUE(piece->rows % unit == 0 || piece->first_row + piece->rows == piece->weight->shape.rows);
      EXPECT_TRUE(piece_bytes > 1 || piece->rows <= unit);
    }
    EXPECT_EQ(seen.size(), all_rows(model.files)) << piece_bytes;
    EXPECT_EQ(count, pieces);
    EXPECT_EQ(reader.next(), nullptr);
    most = std::max(most, pieces);
  }
  EXPECT_EQ(CheckpointReader::pieces(model.files, std::size_t{1} << 30), model.files.weights.size());
  EXPECT_GT(most, model.files.weights.size());
}

TEST(CheckpointReader, RanksThatShareACounterReadEverythingOnce) {
  const TwoFiles model;
  const auto contents = contents_of(model);
  constexpr std::size_t kPiece = 5000;
  const std::uint64_t pieces = CheckpointReader::pieces(model.files, kPiece);
  std::atomic<std::uint64_t> counter{0};
  const std::thread::id self = std::this_thread::get_id();
  int elsewhere = 0;
  const auto claim = [&]() -> std::optional<std::uint64_t> {
    elsewhere += std::this_thread::get_id() != self;
    const std::uint64_t number = counter.fetch_add(1);
    return number < pieces ? std::optional(number) : std::nullopt;
  };
  constexpr std::size_t kRanks = 3;
  std::vector<std::unique_ptr<CheckpointReader>> readers;
  for (std::size_t i = 0; i < kRanks; ++i)
    readers.push_back(std::make_unique<CheckpointReader>(model.files, claim, kPiece));
  Seen seen;
  std::size_t ended = 0;
  for (std::size_t turn = 0; ended < kRanks; ++turn) {
    const CheckpointPiece* piece = readers[turn % kRanks]->next();
    ended = piece == nullptr ? ended + 1 : 0;
    if (piece != nullptr) check(*piece, contents, seen);
  }
  EXPECT_EQ(seen.size(), all_rows(model.files));
  EXPECT_EQ(counter.load(), pieces + kRanks);  // nobody asks again after the end
  EXPECT_EQ(elsewhere, 0);
}

TEST(CheckpointReader, LeavingEarlyAndClaimingNothingAreAllowed) {
  const TwoFiles model;
  CheckpointReader nothing(model.files, CheckpointReader::every_piece(0));
  EXPECT_EQ(nothing.next(), nullptr);
  CheckpointReader left(model.files, CheckpointReader::every_piece(CheckpointReader::pieces(model.files, 1)),
                        1);
  EXPECT_NE(left.next(), nullptr);  // and the rest of what it claimed is dropped
}

TEST(CheckpointReader, ErrorsNameTheFile) {
  const TwoFiles model;
  const auto reader_of = [&] {
    return std::make_unique<CheckpointReader>(
        model.files, CheckpointReader::every_piece(CheckpointReader::pieces(model.files)));
  };
  const auto read_all = [](CheckpointReader& reader) {
    while (reader.next() != nullptr) {
    }
  };
  std::filesystem::resize_file(model.path(1), std::filesystem::file_size(model.path(1)) - 1);
  const auto shorter = reader_of();
  const std::string message = message_of<Error>([&] { read_all(*shorter); });
  EXPECT_NE(message.find(model.path(1).filename().string()), std::string::npos) << message;
  EXPECT_NE(message.find("become shorter"), std::string::npos) << message;
  EXPECT_EQ(message_of<Error>([&] { shorter->next(); }), message);  // it stays broken
  std::filesystem::remove(model.path(0));
  const auto missing = reader_of();
  EXPECT_NE(message_of<Error>([&] { read_all(*missing); }).find("cannot be opened"), std::string::npos);
  CheckpointReader wrong(model.files, [] { return std::optional<std::uint64_t>(1'000'000); });
  EXPECT_NE(message_of<Error>([&] { wrong.next(); }).find("piece 1000000"), std::string::npos);
}

}  // namespace
}  // namespace nightshift::test
