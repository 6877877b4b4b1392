// SPDX-License-Identifier: Apache-2.0
// GPUs, behind a library of their own that is loaded when it is there: one program runs on machines with and
// without a driver, and on those without the CUDA libraries.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/kernels.h"

namespace nightshift::kernels {

// GPUs that this process can use; 0 without the library nightshift-cuda.so beside the program
// (NIGHTSHIFT_CUDA_LIBRARY names another), without a driver, and without a device.
int gpu_count();

// Why gpu_count() is 0, for people: "no nightshift-cuda.so beside nightshift-rank", ...; empty where there
// are GPUs.
std::string why_no_gpu();

struct GpuFacts {
  std::string identity;          // "0000:1b:00.0", of the device on its host
  std::uint64_t free_bytes = 0;  // of its memory
};
GpuFacts gpu_facts(int device);  // throws Error with why_no_gpu() where there is none

// Throws Error with why_no_gpu() where there is none.
std::unique_ptr<Backend> make_gpu_backend(int device, bool strict);

// The number of a backend's GPU, for gpu_facts(). Slices of one GPU (MIG) have one identity, and NCCL takes
// them for one GPU too.
int gpu_of(const Backend& backend);

// Exchanges of device memory among GPUs of several processes, by NCCL. Every call is work in the order of the
// backend: it returns before the data has moved and may be recorded in a CUDA graph (after the same call ran
// once outside of one, since connections are made then). All processes make the same calls in the same order.
// Blocks lie back to back in rank order, sizes in bytes, zero allowed. Calls throw Error naming the call, the
// group, the rank and NCCL's own words.
class GpuGroup {
 public:
  virtual ~GpuGroup() = default;

  // Block r of `send` goes to rank r, block r of `receive` comes from it; the buffers differ. Sizes must be
  // such that where all blocks of one rank have the same size all blocks of all ranks have it (slices of one
  // whole are): those go by NCCL's own all-to-all where it has one (from 2.28).
  virtual void all_to_all(const void* send, std::span<const std::int64_t> send_bytes, void* receive,
                          std::span<const std::int64_t> receive_bytes) = 0;
  virtual void all_gather(void* blocks, std::span<const std::int64_t> bytes) = 0;  // own block in its place
  // values += those of all others. The order of the additions is NCCL's: a function of the group and `count`.
  virtual void all_reduce(float* values, std::int64_t count) = 0;
  // own_block = sum of all ranks' blocks of this rank's number; bytes: of the blocks of `send`, on all ranks
  // the same.
  virtual void reduce_scatter(const float* send, float* own_block, std::span<const std::int64_t> bytes) = 0;

  // Throws when an exchange has failed since, e.g. because a process has died. Costs a look into memory.
  virtual void check() = 0;
  // Gives up what runs and what waits, so that the backend can be destroyed. Returns when nothing of this
  // group runs any more, which may take the same call of all other groups of the backend, by other threads.
  // No call but check(), which throws, after that.
  virtual void abort() = 0;
};

// Names a group before it is made: one process asks for it and tells the others.
using GpuGroupId = std::array<char, 128>;
GpuGroupId new_gpu_group_id();

// Why GPUs cannot exchange data by NCCL here: "libnccl.so.2 does not load: ..."; empty where they can.
// NIGHTSHIFT_NCCL_LIBRARY names another library than libnccl.so.2.
std::string why_no_gpu_group();

// Collective over the group's processes, each with a GPU of its own; returns when all have come. The backend
// must outlive it. `name`: for people ("the tensor group").
std::unique_ptr<GpuGroup> make_gpu_group(Backend& backend, const GpuGroupId& id, int rank, int size,
                                         const std::string& name);

}  // namespace nightshift::kernels
