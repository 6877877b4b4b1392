// SPDX-License-Identifier: Apache-2.0
// One block that holds all packed weights: a shared window of the host where several ranks use them.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "kernels/kernels.h"
#include "parallel/parallel.h"

namespace nightshift::model {

// Hands out consecutive pieces. Before reserve() it only adds up what will be taken: whoever lays out weights
// does so twice, and cannot count wrongly.
class WeightMemory {
 public:
  explicit WeightMemory(kernels::Backend& backend) : backend_(backend) {}

  // 4 KiB aligned, so that no page, let alone cache line, is written by two ranks that fill different
  // matrices. Zeroed. Empty while measuring.
  std::span<std::byte> take(std::size_t bytes);
  // Makes the block, as large as what was taken so far; taking starts from the front. With a mesh one block
  // per host, collective over the world; else, and on GPUs, this process's own.
  void reserve(const parallel::DeviceMesh* mesh);

  std::size_t bytes() const { return bytes_; }
  // The ranks that share the block; null where nobody does.
  const parallel::Communicator* sharers() const { return shared_ ? &shared_->host() : nullptr; }
  void publish() const {  // what any sharer has written is there for all. Collective over them
    if (shared_) shared_->publish();
  }

 private:
  kernels::Backend& backend_;
  std::optional<parallel::SharedMemory> shared_;
  kernels::Buffer own_;
  std::byte* data_ = nullptr;
  std::size_t taken_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace nightshift::model
