// SPDX-License-Identifier: Apache-2.0
#include "model/weight_memory.h"

#include <algorithm>

#include "core/check.h"

namespace nightshift::model {

namespace {
constexpr std::size_t kAlignment = 4096;
}

std::span<std::byte> WeightMemory::take(std::size_t bytes) {
  const std::size_t at = taken_;
  taken_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (data_ == nullptr) return {};
  NS_CHECK(taken_ <= bytes_, "weights take {} bytes of {}", taken_, bytes_);
  return {data_ + at, bytes};
}

void WeightMemory::reserve(const parallel::DeviceMesh* mesh) {
  bytes_ = taken_;
  taken_ = 0;
  if (mesh != nullptr && backend_.device() == kernels::Device::cpu) {
    shared_.emplace(mesh->world(), bytes_, "model::weights");
    data_ = shared_->bytes().data();
    return;
  }
  own_ = backend_.allocate(bytes_, "model::weights");
  data_ = own_.as<std::byte>();
  constexpr std::size_t kMostAtOnce = std::size_t{1} << 30;
  for (std::size_t at = 0; at < bytes_; at += kMostAtOnce)
    backend_.fill({reinterpret_cast<float*>(data_ + at), 1,
                   static_cast<std::int64_t>(std::min(kMostAtOnce, bytes_ - at) / sizeof(float))},
                  0.0F);
}

}  // namespace nightshift::model
