// SPDX-License-Identifier: Apache-2.0
// Reads the weights of a checkpoint in numbered pieces of whole rows. Which pieces this reader reads, and in
// which order, the caller says: one rank takes all of them; the ranks of a node draw numbers from a shared
// counter, so that every byte is read from the file system once per node. Threads of its own read ahead of
// the caller.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "model/files/model_files.h"

namespace nightshift::model {

struct CheckpointPiece {
  const WeightTensor* weight = nullptr;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t columns = 0;         // of a row; 1 for vectors
  std::span<const std::byte> data;  // [rows][columns] in the file's element type, 64-byte aligned
};

// How a checkpoint is cut: weights in the order of files and offsets, each into runs of whole rows of about
// piece_bytes, in multiples of 64 rows (gate and up: of 32, half a panel of their interleaved matrix), at
// least one of these. A function of the model and the size alone, so every rank has the same numbers.
class CheckpointPieces {
 public:
  CheckpointPieces(const ModelFiles& files, std::size_t piece_bytes);

  std::uint64_t count() const { return first_piece_.back(); }
  CheckpointPiece at(std::uint64_t number) const;            // without data
  std::uint64_t offset(const CheckpointPiece& piece) const;  // of its first byte in its weight's file
  static std::size_t bytes(const CheckpointPiece& piece);

 private:
  const ModelFiles& files_;
  std::vector<std::int64_t> step_;          // rows of a piece, per weight
  std::vector<std::uint64_t> first_piece_;  // per weight, then the count
};

class CheckpointReader {
 public:
  // The number of the next piece to read, below pieces(), each once in all; nullopt when there are no more.
  using Claim = std::function<std::optional<std::uint64_t>()>;

  // Small enough to stay in a core's cache from the read to the packing, large enough for file systems.
  static constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

  struct Ways {
    std::size_t piece_bytes = kPieceBytes;
    int threads = 1;  // that read; with several, pieces come in any order
    int held = 0;     // pieces that stay valid behind the one returned last
    std::function<kernels::Buffer(std::size_t)> memory = {};  // of pieces; none: ordinary memory
  };

  // `claim` is called in next() alone, so by the caller's thread; a few claims ahead of what next() returns.
  CheckpointReader(const ModelFiles& files, Claim claim, Ways ways);
  CheckpointReader(const ModelFiles& files, Claim claim, std::size_t piece_bytes = kPieceBytes)
      : CheckpointReader(files, std::move(claim), Ways{.piece_bytes = piece_bytes}) {}
  ~CheckpointReader();
  CheckpointReader(const CheckpointReader&) = delete;
  CheckpointReader& operator=(const CheckpointReader&) = delete;

  static std::uint64_t pieces(const ModelFiles& files, std::size_t piece_bytes = kPieceBytes);
  std::uint64_t pieces() const { return pieces_.count(); }
  static Claim every_piece(std::uint64_t pieces);  // 0, 1, 2, ...: a single rank

  // The next claimed piece, or nullptr when claims have ended and all were returned; valid until the next
  // call, or `held` calls longer. Throws Error when a file cannot be read or has become shorter than its
  // header says.
  const CheckpointPiece* next();

 private:
  // A piece on its way: claimed, then read, then with the caller.
  struct Slot {
    CheckpointPiece piece;
    kernels::Buffer memory;  // grows to the largest piece it held
  };
  class File;

  void claim_ahead();
  void read_all();
  void read(Slot& slot, std::unique_ptr<File>& file);

  const CheckpointPieces pieces_;
  const ModelFiles& files_;
  const Claim claim_;
  const Ways ways_;
  const std::size_t ahead_;  // pieces claimed before they are asked for
  // Of the caller's thread alone.
  bool claims_ended_ = false;
  std::size_t under_way_ = 0;                   // pieces claimed and not yet returned
  std::deque<std::unique_ptr<Slot>> returned_;  // the one returned last, and those held behind it
  std::vector<std::unique_ptr<Slot>> spare_;

  std::mutex mutex_;  // for what both threads see
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Slot>> claimed_, ready_;
  std::exception_ptr error_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nightshift::model
