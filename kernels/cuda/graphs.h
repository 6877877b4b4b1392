// SPDX-License-Identifier: Apache-2.0
// Launches of a step, recorded once and started again as a whole (CUDA graphs): some microseconds for
// hundreds of kernels, each of which would cost the host as much by itself.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <unordered_map>

namespace nightshift::kernels::cuda {

class Graphs {
 public:
  // Off where NIGHTSHIFT_CUDA_GRAPHS is 0.
  explicit Graphs(cudaStream_t stream);
  ~Graphs() { clear(); }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // Runs `work`, which only starts kernels on the stream: as it is the first time (when memory grows and
  // algorithms are chosen), recorded the second time, from the record later on. `epoch` tells when what was
  // recorded no longer holds.
  void run(std::uint64_t key, int epoch, const std::function<void()>& work);
  // Everything is recorded anew. Waits for nothing: what runs of it runs on, and is freed at its end.
  void clear();

 private:
  struct Entry {
    cudaGraphExec_t exec = nullptr;
    bool seen = false;
  };
  void record(Entry& entry, const std::function<void()>& work);

  cudaStream_t stream_;
  bool on_;
  int epoch_ = 0;
  std::unordered_map<std::uint64_t, Entry> entries_;
};

}  // namespace nightshift::kernels::cuda
