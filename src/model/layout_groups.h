// SPDX-License-Identifier: Apache-2.0
// The groups that this rank exchanges a step's tensors with, in both layouts.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/collectives.h"

namespace nightshift::model {

// A replica's groups are made once. Where a group of the shift layout has the ranks of one of the base
// layout, in the same order, it is that one: with NCCL every group costs memory of the GPU.
class LayoutGroups {
 public:
  // mesh null: one rank, no groups. `shifts`: whether the shift layout is used at all. Collective over the
  // replica; mesh and backend must outlive it.
  LayoutGroups(const parallel::DeviceMesh* mesh, kernels::Backend& backend, Transport transport, bool shifts);

  // Null where this rank is alone in it.
  Collectives* sequence(parallel::Layout layout) const { return pair(layout).sequence; }
  Collectives* tensor(parallel::Layout layout) const { return pair(layout).tensor; }

  // All ranks of the replica in the order of their chunks: the shift layout's tensor group.
  Collectives* all() const { return all_; }

  // For the report: "none", "host", "nccl", or "mpi" with the reason why it is not NCCL.
  const std::string& way() const { return way_; }
  bool capturable() const;  // a step may be recorded in a CUDA graph
  // Backend::run_repeatedly() of work that exchanges data, where capturable(). What a repetition sends is
  // counted as that which it repeats.
  void run_repeatedly(std::uint64_t key, kernels::Backend& backend, const std::function<void()>& work);

  // For whoever waits for a step, `waited` so long by now: Collectives::check() of all groups. A step over
  // NCCL that takes longer than kPatience is given up too: its peers have stopped without an error.
  void check(std::chrono::nanoseconds waited = {});
  static constexpr std::chrono::seconds kPatience{600};
  void wait(kernels::Backend& backend, kernels::Mark mark);  // until it is reached, checking meanwhile
  void abort();

 private:
  struct Pair {
    Collectives* sequence = nullptr;
    Collectives* tensor = nullptr;
  };
  const Pair& pair(parallel::Layout layout) const { return pairs_[static_cast<std::size_t>(layout)]; }
  Collectives* make(const parallel::Communicator& group, kernels::Backend& backend, Transport transport,
                    const std::string& name);

  std::vector<std::unique_ptr<Collectives>> groups_;  // those of more than one rank
  std::array<Pair, 2> pairs_;                         // by Layout
  Collectives* all_ = nullptr;
  const parallel::Communicator* counts_ = nullptr;  // the traffic of all groups; null without any
  std::unordered_map<std::uint64_t, parallel::TrafficSums> sent_;  // by repeated work, by its key
  std::string way_ = "none";
};

}  // namespace nightshift::model
