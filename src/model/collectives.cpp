// SPDX-License-Identifier: Apache-2.0
#include "model/collectives.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "core/check.h"
#include "kernels/gpu.h"

namespace nightshift::model {
namespace {

using parallel::Communicator;
using parallel::Traffic;
using Bytes = std::span<const std::int64_t>;

constexpr auto kFloat = static_cast<std::int64_t>(sizeof(float));

std::int64_t total(Bytes bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}
std::int64_t begin_of(Bytes bytes, int rank) {
  return total(bytes.first(static_cast<std::size_t>(rank)));
}
std::int64_t size_of(Bytes bytes, int rank) {
  return bytes[static_cast<std::size_t>(rank)];
}

// Shares of an all-reduce: rank r adds up slice r.
std::vector<std::int64_t> shares(std::int64_t count, int ranks) {
  std::vector<std::int64_t> bytes;
  for (int r = 0; r < ranks; ++r) bytes.push_back(parallel::slice_of(count, ranks, r).size() * kFloat);
  return bytes;
}

class HostCollectives final : public Collectives {
 public:
  explicit HostCollectives(const Communicator& group) : Collectives(group) {}
  std::string_view way() const override { return "host"; }

  void all_to_all(Traffic kind, const void* send, Bytes send_bytes, void* receive,
                  Bytes receive_bytes) override {
    group_.all_to_all(kind, send, send_bytes, receive, receive_bytes);
  }
  void all_gather(Traffic kind, void* blocks, Bytes bytes) override {
    group_.all_gather(kind, blocks, bytes);
  }
  void all_reduce(Traffic kind, float* values, std::int64_t count) override;
  void reduce_scatter(Traffic kind, const float* send, float* own_block, Bytes bytes) override;

 private:
  std::vector<float> parts_;  // [ranks][own block]
};

void HostCollectives::all_reduce(Traffic kind, float* values, std::int64_t count) {
  const std::vector<std::int64_t> bytes = shares(count, size());
  reduce_scatter(kind, values, values + begin_of(bytes, rank()) / kFloat, bytes);
  all_gather(kind, values, bytes);
}

// In rank order. `own_block` may lie in `send`: it is written when everything has been sent.
void HostCollectives::reduce_scatter(Traffic kind, const float* send, float* own_block, Bytes bytes) {
  const std::int64_t own = size_of(bytes, rank()), count = own / kFloat;
  NS_CHECK(own % kFloat == 0, "a block of {} bytes is no whole number of floats", own);
  parts_.resize(static_cast<std::size_t>(count * size()));
  const std::vector<std::int64_t> receive(bytes.size(), own);
  group_.all_to_all(kind, send, bytes, parts_.data(), receive);
  std::copy_n(parts_.data(), count, own_block);
  for (int r = 1; r < size(); ++r) {
    const float* part = parts_.data() + r * count;
    for (std::int64_t i = 0; i < count; ++i) own_block[i] += part[i];
  }
}

// Page-locked memory on both ends of a host exchange. It grows in the first, largest steps only.
class StagedCollectives final : public Collectives {
 public:
  StagedCollectives(const Communicator& group, kernels::Backend& backend, std::string why)
      : Collectives(group, std::move(why)), backend_(backend), host_(group) {}
  std::string_view way() const override { return "mpi"; }

  void all_to_all(Traffic kind, const void* send, Bytes send_bytes, void* receive,
                  Bytes receive_bytes) override;
  void all_gather(Traffic kind, void* blocks, Bytes bytes) override;
  void all_reduce(Traffic kind, float* values, std::int64_t count) override;
  void reduce_scatter(Traffic kind, const float* send, float* own_block, Bytes bytes) override;

 private:
  std::byte* room(kernels::Buffer& buffer, std::int64_t bytes);
  // What was copied to the device before has left the host memory when this returns.
  std::byte* fetch(const void* device, std::int64_t bytes, std::int64_t whole);
  void deliver(void* device, const void* host, std::int64_t bytes);

  kernels::Backend& backend_;
  HostCollectives host_;
  kernels::Buffer out_, in_;
};

std::byte* StagedCollectives::room(kernels::Buffer& buffer, std::int64_t bytes) {
  const auto needed = static_cast<std::size_t>(bytes);
  if (buffer.bytes() < needed) {
    buffer = {};
    buffer = backend_.allocate_host(needed, "model::exchange");
  }
  return buffer.as<std::byte>();
}

// `bytes` from the device at the beginning of `whole` bytes of host memory.
std::byte* StagedCollectives::fetch(const void* device, std::int64_t bytes, std::int64_t whole) {
  const TraceScope trace(group_.trace(), "exchange: from the GPU");
  backend_.synchronize();
  std::byte* const host = room(out_, whole);
  if (bytes > 0) backend_.copy_to_host(host, device, static_cast<std::size_t>(bytes));
  return host;
}

void StagedCollectives::deliver(void* device, const void* host, std::int64_t bytes) {
  if (bytes > 0) backend_.copy_to_device(device, host, static_cast<std::size_t>(bytes));
}

void StagedCollectives::all_to_all(Traffic kind, const void* send, Bytes send_bytes, void* receive,
                                   Bytes receive_bytes) {
  const std::int64_t sent = total(send_bytes), received = total(receive_bytes);
  const std::byte* const out = fetch(send, sent, sent);
  std::byte* const in = room(in_, received);
  host_.all_to_all(kind, out, send_bytes, in, receive_bytes);
  deliver(receive, in, received);
}

void StagedCollectives::all_gather(Traffic kind, void* blocks, Bytes bytes) {
  auto* const device = static_cast<std::byte*>(blocks);
  const std::int64_t begin = begin_of(bytes, rank()), own = size_of(bytes, rank()), all = total(bytes);
  const TraceScope trace(group_.trace(), "exchange: through the host");
  backend_.synchronize();
  std::byte* const host = room(out_, all);
  if (own > 0) backend_.copy_to_host(host + begin, device + begin, static_cast<std::size_t>(own));
  host_.all_gather(kind, host, bytes);
  deliver(device, host, begin);
  deliver(device + begin + own, host + begin + own, all - begin - own);
}

void StagedCollectives::all_reduce(Traffic kind, float* values, std::int64_t count) {
  auto* const host = reinterpret_cast<float*>(fetch(values, count * kFloat, count * kFloat));
  host_.all_reduce(kind, host, count);
  deliver(values, host, count * kFloat);
}

void StagedCollectives::reduce_scatter(Traffic kind, const float* send, float* own_block, Bytes bytes) {
  const std::int64_t own = size_of(bytes, rank()), all = total(bytes);
  const auto* const out = reinterpret_cast<const float*>(fetch(send, all, all));
  auto* const in = reinterpret_cast<float*>(room(in_, own));
  host_.reduce_scatter(kind, out, in, bytes);
  deliver(own_block, in, own);
}

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(const Communicator& group, std::unique_ptr<kernels::GpuGroup> gpus)
      : Collectives(group), gpus_(std::move(gpus)) {}
  std::string_view way() const override { return "nccl"; }

  void all_to_all(Traffic kind, const void* send, Bytes send_bytes, void* receive,
                  Bytes receive_bytes) override {
    gpus_->all_to_all(send, send_bytes, receive, receive_bytes);
    sent(kind, total(send_bytes) - size_of(send_bytes, rank()));
  }
  void all_gather(Traffic kind, void* blocks, Bytes bytes) override {
    gpus_->all_gather(blocks, bytes);
    sent(kind, gathered(bytes));
  }
  // Bytes as if it were the reduce-scatter and all-gather that it is on the other ways.
  void all_reduce(Traffic kind, float* values, std::int64_t count) override {
    gpus_->all_reduce(values, count);
    const std::vector<std::int64_t> bytes = shares(count, size());
    sent(kind, total(bytes) - size_of(bytes, rank()) + gathered(bytes));
  }
  void reduce_scatter(Traffic kind, const float* send, float* own_block, Bytes bytes) override {
    gpus_->reduce_scatter(send, own_block, bytes);
    sent(kind, total(bytes) - size_of(bytes, rank()));
  }
  void check() override { gpus_->check(); }
  void abort() override { gpus_->abort(); }

 private:
  void sent(Traffic kind, std::int64_t bytes) { group_.count(kind, static_cast<std::uint64_t>(bytes)); }
  std::int64_t gathered(Bytes bytes) const { return size_of(bytes, rank()) * (size() - 1); }

  std::unique_ptr<kernels::GpuGroup> gpus_;
};

// Rank 0's verdict over what every rank has told: its GPU, and a line with the reason against NCCL if it has
// one.
std::string verdict(const std::vector<std::string>& told) {
  std::vector<std::string> gpus;
  for (std::size_t r = 0; r < told.size(); ++r) {
    const std::size_t line = told[r].find('\n');
    gpus.push_back(told[r].substr(0, line));
    if (const std::string reason = told[r].substr(line + 1); !reason.empty()) return reason;
    const auto twin = std::find(gpus.begin(), gpus.end() - 1, gpus.back());
    if (twin != gpus.end() - 1)
      return fmt::format("ranks {} and {} of a group share GPU {}, and NCCL refuses two ranks on one GPU",
                         twin - gpus.begin(), r, gpus.back());
  }
  return {};
}

}  // namespace

Transport transport_named(std::string_view name) {
  if (name == "auto") return Transport::automatic;
  if (name == "nccl") return Transport::nccl;
  if (name == "mpi") return Transport::mpi;
  throw BadInput(fmt::format("there is no transport '{}'", name), "auto, nccl and mpi are there");
}

std::string why_no_nccl(const Communicator& group, kernels::Backend& backend) {
  if (backend.device() != kernels::Device::cuda) return "NCCL joins GPUs, and this model runs on CPUs";
  const auto told =
      group.gather(fmt::format("{} of {}\n{}", kernels::gpu_facts(kernels::gpu_of(backend)).identity,
                               Communicator::host_name(), kernels::why_no_gpu_group()));
  std::string reason = group.rank() == 0 ? verdict(told) : "";
  group.broadcast(reason);
  return reason;
}

std::unique_ptr<Collectives> make_collectives(const Communicator& group, kernels::Backend& backend,
                                              Transport transport, const std::string& name) {
  const bool cpu = backend.device() == kernels::Device::cpu;
  if (transport != Transport::nccl && cpu) return std::make_unique<HostCollectives>(group);
  if (transport == Transport::mpi) return std::make_unique<StagedCollectives>(group, backend, "");
  if (const std::string reason = why_no_nccl(group, backend); !reason.empty()) {
    if (transport == Transport::nccl)
      throw BadInput(fmt::format("parallel.transport = \"nccl\" cannot be used: {}", reason),
                     "give every rank a GPU of its own, or take \"auto\" or \"mpi\"");
    return std::make_unique<StagedCollectives>(group, backend, reason);
  }
  std::string id;
  if (group.rank() == 0) {
    const kernels::GpuGroupId fresh = kernels::new_gpu_group_id();
    id.assign(fresh.begin(), fresh.end());
  }
  group.broadcast(id);
  kernels::GpuGroupId shared{};
  std::copy_n(id.begin(), std::min(id.size(), shared.size()), shared.begin());
  return std::make_unique<NcclCollectives>(
      group, kernels::make_gpu_group(backend, shared, group.rank(), group.size(), name));
}

}  // namespace nightshift::model
