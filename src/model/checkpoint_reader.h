// SPDX-License-Identifier: Apache-2.0
// Reads the weights of a checkpoint front to back, in pieces of whole rows, one piece ahead of the caller.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "model/files/model_files.h"

namespace nightshift::model {

struct CheckpointPiece {
  const WeightTensor* weight = nullptr;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t columns = 0;     // of a row; 1 for vectors
  std::vector<std::byte> data;  // [rows][columns] in the file's element type; may be longer, is reused
};

class CheckpointReader {
 public:
  explicit CheckpointReader(const ModelFiles& files, std::size_t piece_bytes = std::size_t{16} << 20);
  ~CheckpointReader();

  // The next piece, or nullptr after the last; valid until the next call. Throws Error when a file cannot be
  // read or has become shorter than its header says.
  const CheckpointPiece* next();

 private:
  void read_all();
  bool wait_for_room(std::unique_lock<std::mutex>& lock);

  const ModelFiles& files_;
  std::size_t piece_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  CheckpointPiece current_;                 // with the caller
  std::optional<CheckpointPiece> waiting_;  // read ahead
  std::vector<std::byte> spare_;            // a buffer to read into
  std::exception_ptr error_;
  bool done_ = false;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nightshift::model
