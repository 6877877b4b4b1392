// SPDX-License-Identifier: Apache-2.0
#include "model/layout_groups.h"

#include <algorithm>
#include <thread>

#include "core/check.h"

namespace nightshift::model {

using parallel::Layout;

LayoutGroups::LayoutGroups(const parallel::DeviceMesh* mesh, kernels::Backend& backend, Transport transport,
                           bool shifts) {
  if (mesh == nullptr || mesh->degrees().ranks() == 1) return;
  counts_ = &mesh->replica();
  Pair& base = pairs_[static_cast<std::size_t>(Layout::base)];
  Pair& shift = pairs_[static_cast<std::size_t>(Layout::shift)];
  const parallel::Degrees& degrees = mesh->degrees();
  base.sequence =
      make(mesh->sequence_group(Layout::base), backend, transport, "the sequence group of the base layout");
  base.tensor =
      make(mesh->tensor_group(Layout::base), backend, transport, "the tensor group of the base layout");
  // Chunk order is the order of s where there is one t, and the order of t where there is one s.
  if (degrees.tensor == 1)
    all_ = base.sequence;
  else if (degrees.sequence == 1)
    all_ = base.tensor;
  else
    all_ = make(mesh->tensor_group(Layout::shift), backend, transport, "the group of the whole replica");
  shift = shifts ? Pair{nullptr, all_} : base;
}

Collectives* LayoutGroups::make(const parallel::Communicator& group, kernels::Backend& backend,
                                Transport transport, const std::string& name) {
  if (group.size() == 1) return nullptr;
  groups_.push_back(make_collectives(group, backend, transport, name));
  Collectives& made = *groups_.back();
  if (!made.why().empty())
    way_ = fmt::format("{} ({})", made.way(), made.why());
  else if (groups_.size() == 1)
    way_ = made.way();
  return &made;
}

bool LayoutGroups::capturable() const {
  return std::all_of(groups_.begin(), groups_.end(), [](const auto& group) { return group->capturable(); });
}

void LayoutGroups::run_repeatedly(std::uint64_t key, kernels::Backend& backend,
                                  const std::function<void()>& work) {
  if (counts_ == nullptr || key == 0) return backend.run_repeatedly(key, work);
  bool called = false;
  const parallel::TrafficSums before = counts_->traffic();
  backend.run_repeatedly(key, [&] {
    called = true;
    work();
  });
  parallel::TrafficSums& sent = sent_[key];
  const parallel::TrafficSums after = counts_->traffic();
  for (std::size_t i = 0; i < sent.size(); ++i) {
    if (called)
      sent[i] = {after[i].bytes - before[i].bytes, after[i].calls - before[i].calls, 0.0};
    else
      counts_->count(static_cast<parallel::Traffic>(i), sent[i].bytes, sent[i].calls);
  }
}

// Short steps are worth a core's attention. Waiting is no sign of life: a GPU that hangs must look like one.
void LayoutGroups::wait(kernels::Backend& backend, kernels::Mark mark) {
  constexpr std::chrono::microseconds kSpin(200), kNap(50);
  const auto begin = std::chrono::steady_clock::now();
  while (!backend.reached(mark)) {
    const auto waited = std::chrono::steady_clock::now() - begin;
    check(waited);
    if (waited > kSpin) std::this_thread::sleep_for(kNap);
  }
  check();
}

void LayoutGroups::check(std::chrono::nanoseconds waited) {
  try {
    for (const auto& group : groups_) group->check();
    if (groups_.empty() || !capturable() || waited < kPatience) return;
    throw Error(
        fmt::format("rank {} of {} of a replica, on {}: a step with exchanges over NCCL has not ended "
                    "within {} s",
                    counts_->rank(), counts_->size(), parallel::Communicator::host_name(), kPatience.count()),
        "see the other ranks' messages and the GPUs' logs (dmesg, nvidia-smi); parallel.transport = "
        "\"mpi\" goes without NCCL");
  } catch (...) {
    abort();
    throw;
  }
}

// All at once: one group may wait for what another one holds.
void LayoutGroups::abort() {
  std::vector<std::thread> threads;
  for (const auto& group : groups_) threads.emplace_back([&group] { group->abort(); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace nightshift::model
