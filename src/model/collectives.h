// SPDX-License-Identifier: Apache-2.0
// Exchanges of a step's tensors, in the memory of the device that computes. Three ways, one interface:
//  - host: CPUs. Messages of MPI between the ranks' own memories.
//  - mpi:  GPUs. Through page-locked host memory and MPI; ranks may share a GPU. Every call waits for the
//          GPU.
//  - nccl: GPUs, one each. Work in the backend's order (kernels::GpuGroup): nothing waits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/kernels.h"
#include "model/transport.h"
#include "parallel/parallel.h"

namespace nightshift::model {

// The ranks of one group and a way between them. All pointers are device memory of the group's backend, and
// what a call reads and writes is ready in the order of that backend. All ranks of the group make the same
// calls in the same order. Blocks lie back to back in rank order; sizes in bytes, one per rank, zero allowed,
// cut so that where one rank's blocks are all of one size everybody's are (slices of one whole are). Bytes
// sent are counted by the group's Communicator under the kind; calls too, one for each exchange.
class Collectives {
 public:
  virtual ~Collectives() = default;
  int rank() const { return group_.rank(); }
  int size() const { return group_.size(); }
  virtual std::string_view way() const = 0;            // "host", "mpi", "nccl"
  const std::string& why() const { return why_; }      // it is not NCCL, where that was a choice; for people
  bool capturable() const { return way() == "nccl"; }  // may be recorded in a CUDA graph

  // As in parallel::Communicator.
  virtual void all_to_all(parallel::Traffic kind, const void* send, std::span<const std::int64_t> send_bytes,
                          void* receive, std::span<const std::int64_t> receive_bytes) = 0;
  virtual void all_gather(parallel::Traffic kind, void* blocks, std::span<const std::int64_t> bytes) = 0;
  // values [count] += those of all other ranks, the same bits everywhere. The order of the additions depends
  // on the way, the group and the count alone: for numerics that need not be strict.
  virtual void all_reduce(parallel::Traffic kind, float* values, std::int64_t count) = 0;
  // own_block = the sum over ranks of their blocks of this rank's number, in an order as above. `bytes`: of
  // the blocks of `send`, the same on all ranks. The buffers differ.
  virtual void reduce_scatter(parallel::Traffic kind, const float* send, float* own_block,
                              std::span<const std::int64_t> bytes) = 0;

  // Throws Error naming the group when an exchange that was begun has failed, e.g. because a rank has died:
  // for whoever waits for a step, and then aborts all groups (LayoutGroups does both).
  virtual void check() {}
  virtual void abort() {}  // gives up what was begun; after it only destruction

 protected:
  explicit Collectives(const parallel::Communicator& group, std::string why = {})
      : group_(group), why_(std::move(why)) {}
  const parallel::Communicator& group_;

 private:
  std::string why_;
};

// Why the ranks of this group cannot use NCCL, the same words on all of them: "rank 1 and rank 0 share GPU
// 0000:1b:00.0 of node7", "libnccl.so.2 does not load"; empty where they can. Collective over the group.
std::string why_no_nccl(const parallel::Communicator& group, kernels::Backend& backend);

// Collective over the group, whose Communicator and backend must outlive the result. `name`: for people ("the
// tensor group of the base layout"). Throws BadInput when NCCL is asked for and cannot be used.
std::unique_ptr<Collectives> make_collectives(const parallel::Communicator& group, kernels::Backend& backend,
                                              Transport transport, const std::string& name);

}  // namespace nightshift::model
