// SPDX-License-Identifier: Apache-2.0
// NCCL behind one table of function pointers, filled at first use: nightshift-cuda.so loads on machines that
// have no NCCL. Compiled against nccl.h where the build finds one (NIGHTSHIFT_HAVE_NCCL).
#pragma once

#if NIGHTSHIFT_HAVE_NCCL
#include <nccl.h>

#include <cstddef>
#include <string>

namespace nightshift::kernels::cuda {

struct Nccl {
  int version = 0;      // 22809: 2.28.9
  std::string missing;  // why it cannot be used; empty where it can

  decltype(&::ncclGetUniqueId) unique_id = nullptr;
  decltype(&::ncclCommInitRank) init = nullptr;
  decltype(&::ncclCommDestroy) destroy = nullptr;
  decltype(&::ncclCommAbort) abort = nullptr;
  decltype(&::ncclCommGetAsyncError) async_error = nullptr;
  decltype(&::ncclGetErrorString) error_string = nullptr;
  decltype(&::ncclGetLastError) last_error = nullptr;
  decltype(&::ncclGroupStart) group_start = nullptr;
  decltype(&::ncclGroupEnd) group_end = nullptr;
  decltype(&::ncclSend) send = nullptr;
  decltype(&::ncclRecv) receive = nullptr;
  decltype(&::ncclAllGather) all_gather = nullptr;
  decltype(&::ncclAllReduce) all_reduce = nullptr;
  decltype(&::ncclReduce) reduce = nullptr;
  decltype(&::ncclReduceScatter) reduce_scatter = nullptr;
  // From 2.28 on, null before. Spelled out, since older headers do not know it.
  ncclResult_t (*all_to_all)(const void*, void*, std::size_t, ncclDataType_t, ncclComm_t,
                             cudaStream_t) = nullptr;
};

// Loaded once per process; never closed.
const Nccl& nccl();

}  // namespace nightshift::kernels::cuda
#endif
