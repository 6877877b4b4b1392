// SPDX-License-Identifier: Apache-2.0
// A second stream, for what may run beside the first: in a mixed step, decode attention waits for memory
// while prefill attention computes (Kamath et al. 2025, "POD-Attention", do both in one kernel).
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/runtime.h"

namespace nightshift::kernels::cuda {

class SideStream {
 public:
  explicit SideStream(cudaStream_t main) : main_(main) {
    int least = 0, greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream");
    check(cudaStreamCreateWithPriority(&side_, cudaStreamNonBlocking, greatest), "stream");
    check(cudaEventCreateWithFlags(&begin_, cudaEventDisableTiming), "event");
    check(cudaEventCreateWithFlags(&end_, cudaEventDisableTiming), "event");
  }
  ~SideStream() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(side_);
  }
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  // Starts `beside` on the side stream after all that the main one was given, at higher priority: its blocks,
  // few and small, take their places among those of `work`. The main stream goes on after both. Legal in
  // recordings.
  template <class Beside, class Work>
  void together(const Beside& beside, const Work& work) {
    check(cudaEventRecord(begin_, main_), "side stream");
    check(cudaStreamWaitEvent(side_, begin_, 0), "side stream");
    beside(side_);
    work(main_);
    check(cudaEventRecord(end_, side_), "side stream");
    check(cudaStreamWaitEvent(main_, end_, 0), "side stream");
  }

 private:
  cudaStream_t main_, side_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace nightshift::kernels::cuda
