// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"

namespace nightshift::model {

namespace {

class File {
 public:
  explicit File(const std::filesystem::path& path)
      : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw Error(fmt::format("{}: cannot be opened: {}", path_.string(), std::strerror(errno)));
    ::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  ~File() { ::close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void read(std::uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
      const ssize_t got = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0)
        throw Error(fmt::format("{}: {} bytes missing at offset {}: {}", path_.string(), out.size(), offset,
                                got < 0 ? std::strerror(errno) : "the file has become shorter"),
                    "do not change a model while a job uses it");
      offset += static_cast<std::uint64_t>(got);
      out = out.subspan(static_cast<std::size_t>(got));
    }
  }

 private:
  std::filesystem::path path_;
  int fd_;
};

}  // namespace

CheckpointReader::CheckpointReader(const ModelFiles& files, std::size_t piece_bytes)
    : files_(files), piece_bytes_(piece_bytes), thread_([this] { read_all(); }) {}

CheckpointReader::~CheckpointReader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

const CheckpointPiece* CheckpointReader::next() {
  std::unique_lock lock(mutex_);
  if (spare_.empty()) spare_ = std::move(current_.data);  // give the used buffer back
  changed_.wait(lock, [&] { return waiting_ || done_; });
  if (!waiting_) {
    if (error_) std::rethrow_exception(error_);
    return nullptr;
  }
  current_ = std::move(*waiting_);
  waiting_.reset();
  lock.unlock();
  changed_.notify_all();
  return &current_;
}

bool CheckpointReader::wait_for_room(std::unique_lock<std::mutex>& lock) {
  changed_.wait(lock, [&] { return !waiting_ || stop_; });
  return !stop_;
}

void CheckpointReader::read_all() try {
  int open = -1;
  std::optional<File> file;
  for (const WeightTensor& weight : files_.weights) {
    if (weight.tensor->file != open) {
      open = weight.tensor->file;
      file.emplace(files_.checkpoint.files[static_cast<std::size_t>(open)].path);
    }
    const std::int64_t columns = std::max<std::int64_t>(weight.shape.columns, 1);
    const auto row_bytes = static_cast<std::size_t>(columns) * size_of(weight.dtype);
    const std::int64_t step = std::max<std::int64_t>(1, static_cast<std::int64_t>(piece_bytes_ / row_bytes));
    for (std::int64_t row = 0; row < weight.shape.rows; row += step) {
      CheckpointPiece piece{.weight = &weight,
                            .first_row = row,
                            .rows = std::min(step, weight.shape.rows - row),
                            .columns = columns,
                            .data = {}};
      {
        const std::lock_guard lock(mutex_);
        piece.data = std::move(spare_);
        spare_.clear();
      }
      const std::size_t bytes = static_cast<std::size_t>(piece.rows) * row_bytes;
      if (piece.data.size() < bytes) piece.data.resize(std::max(bytes, piece_bytes_));
      file->read(weight.tensor->offset + static_cast<std::uint64_t>(row) * row_bytes,
                 std::span(piece.data).first(bytes));
      std::unique_lock lock(mutex_);
      if (!wait_for_room(lock)) return;
      waiting_ = std::move(piece);
      changed_.notify_all();
    }
  }
  const std::lock_guard lock(mutex_);
  done_ = true;
  changed_.notify_all();
} catch (...) {
  const std::lock_guard lock(mutex_);
  error_ = std::current_exception();
  done_ = true;
  changed_.notify_all();
}

}  // namespace nightshift::model
