// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "core/check.h"

namespace nightshift::model {

namespace {

constexpr std::size_t kAheadOfThread = 4;
constexpr std::align_val_t kAlignment{64};

kernels::Buffer ordinary_memory(std::size_t bytes) {
  return {::operator new[](bytes, kAlignment), bytes, kernels::Device::cpu, "model::checkpoint_piece",
          [](void* memory, std::size_t) { ::operator delete[](memory, kAlignment); }};
}

std::int64_t columns_of(const WeightTensor& weight) {
  return std::max<std::int64_t>(weight.shape.columns, 1);
}

std::size_t row_bytes(const WeightTensor& weight) {
  return static_cast<std::size_t>(columns_of(weight)) * size_of(weight.dtype);
}

// Rows that are packed together: a panel, or what gate or up has of an interleaved one.
std::int64_t unit_of(const WeightTensor& weight) {
  return weight.weight == Weight::gate || weight.weight == Weight::up ? 32 : 64;
}

}  // namespace

CheckpointPieces::CheckpointPieces(const ModelFiles& files, std::size_t piece_bytes)
    : files_(files), first_piece_{0} {
  for (const WeightTensor& weight : files.weights) {
    const std::int64_t unit = unit_of(weight);
    const auto units = static_cast<std::int64_t>(piece_bytes / row_bytes(weight)) / unit;
    step_.push_back(std::max<std::int64_t>(units, 1) * unit);
    const std::int64_t runs = (weight.shape.rows + step_.back() - 1) / step_.back();
    first_piece_.push_back(first_piece_.back() + static_cast<std::uint64_t>(runs));
  }
}

CheckpointPiece CheckpointPieces::at(std::uint64_t number) const {
  NS_CHECK(number < count(), "piece {} of a checkpoint that has {}", number, count());
  const auto after = std::upper_bound(first_piece_.begin(), first_piece_.end(), number);
  const auto index = static_cast<std::size_t>(after - first_piece_.begin()) - 1;
  const WeightTensor& weight = files_.weights[index];
  const std::int64_t first_row = static_cast<std::int64_t>(number - first_piece_[index]) * step_[index];
  return {.weight = &weight,
          .first_row = first_row,
          .rows = std::min(step_[index], weight.shape.rows - first_row),
          .columns = columns_of(weight),
          .data = {}};
}

std::uint64_t CheckpointPieces::offset(const CheckpointPiece& piece) const {
  return piece.weight->tensor->offset +
         static_cast<std::uint64_t>(piece.first_row) * row_bytes(*piece.weight);
}

std::size_t CheckpointPieces::bytes(const CheckpointPiece& piece) {
  return static_cast<std::size_t>(piece.rows) * row_bytes(*piece.weight);
}

class CheckpointReader::File {
 public:
  File(int index, const std::filesystem::path& path)
      : index_(index), path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw Error(fmt::format("{}: cannot be opened: {}", path_.string(), std::strerror(errno)));
    ::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  ~File() { ::close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int index() const { return index_; }

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
  int index_;
  std::filesystem::path path_;
  int fd_;
};

std::uint64_t CheckpointReader::pieces(const ModelFiles& files, std::size_t piece_bytes) {
  return CheckpointPieces(files, piece_bytes).count();
}

CheckpointReader::Claim CheckpointReader::every_piece(std::uint64_t pieces) {
  return [next = std::uint64_t{0}, pieces]() mutable -> std::optional<std::uint64_t> {
    if (next == pieces) return std::nullopt;
    return next++;
  };
}

CheckpointReader::CheckpointReader(const ModelFiles& files, Claim claim, Ways ways)
    : pieces_(files, ways.piece_bytes),
      files_(files),
      claim_(std::move(claim)),
      ways_(std::move(ways)),
      ahead_(kAheadOfThread * static_cast<std::size_t>(ways_.threads)) {
  const std::size_t slots = ahead_ + 1 + static_cast<std::size_t>(ways_.held);
  for (std::size_t i = 0; i < slots; ++i) spare_.push_back(std::make_unique<Slot>());
  for (int i = 0; i < ways_.threads; ++i) threads_.emplace_back([this] { read_all(); });
}

CheckpointReader::~CheckpointReader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void CheckpointReader::claim_ahead() {
  while (!claims_ended_ && under_way_ < ahead_) {
    const std::optional<std::uint64_t> number = claim_();
    if (!number) {
      claims_ended_ = true;
      return;
    }
    spare_.back()->piece = pieces_.at(*number);
    ++under_way_;
    const std::lock_guard lock(mutex_);
    claimed_.push_back(std::move(spare_.back()));
    spare_.pop_back();
    changed_.notify_all();
  }
}

const CheckpointPiece* CheckpointReader::next() {
  if (returned_.size() > static_cast<std::size_t>(ways_.held)) {
    spare_.push_back(std::move(returned_.front()));
    returned_.pop_front();
  }
  claim_ahead();
  std::unique_lock lock(mutex_);
  if (under_way_ == 0) return nullptr;
  changed_.wait(lock, [&] { return !ready_.empty() || error_; });
  if (ready_.empty()) std::rethrow_exception(error_);
  returned_.push_back(std::move(ready_.front()));
  ready_.pop_front();
  --under_way_;
  return &returned_.back()->piece;
}

void CheckpointReader::read(Slot& slot, std::unique_ptr<File>& file) {
  const int index = slot.piece.weight->tensor->file;
  if (!file || file->index() != index)
    file = std::make_unique<File>(index, files_.checkpoint.files[static_cast<std::size_t>(index)].path);
  const std::size_t bytes = CheckpointPieces::bytes(slot.piece);
  if (slot.memory.bytes() < bytes) {
    slot.memory = {};
    slot.memory = ways_.memory ? ways_.memory(bytes) : ordinary_memory(bytes);
  }
  const std::span data(slot.memory.as<std::byte>(), bytes);
  file->read(pieces_.offset(slot.piece), data);
  slot.piece.data = data;
}

void CheckpointReader::read_all() try {
  std::unique_ptr<File> file;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !claimed_.empty() || stop_; });
    if (stop_) return;
    std::unique_ptr<Slot> slot = std::move(claimed_.front());
    claimed_.pop_front();
    lock.unlock();
    read(*slot, file);
    lock.lock();
    ready_.push_back(std::move(slot));
    changed_.notify_all();
  }
} catch (...) {
  const std::lock_guard lock(mutex_);
  error_ = std::current_exception();
  changed_.notify_all();
}

}  // namespace nightshift::model
