// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/graphs.h"

#include <cstdlib>
#include <string_view>

#include "kernels/cuda/runtime.h"

namespace nightshift::kernels::cuda {
namespace {

constexpr std::size_t kMostGraphs = 64;  // some MiB each

bool wanted() {
  const char* setting = std::getenv("NIGHTSHIFT_CUDA_GRAPHS");
  return setting == nullptr || std::string_view(setting) != "0";
}

}  // namespace

Graphs::Graphs(cudaStream_t stream) : stream_(stream), on_(wanted()) {}

void Graphs::run(std::uint64_t key, int epoch, const std::function<void()>& work) {
  if (!on_ || key == 0) return work();
  if (epoch != epoch_ || entries_.size() >= kMostGraphs) clear();
  epoch_ = epoch;
  Entry& entry = entries_[key];
  if (!entry.seen) {
    entry.seen = true;
    return work();
  }
  if (entry.exec == nullptr) record(entry, work);
  check(cudaGraphLaunch(entry.exec, stream_), "graph");
}

void Graphs::record(Entry& entry, const std::function<void()>& work) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "graph");
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream_, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream_, &graph), "graph");
  const cudaError_t made = cudaGraphInstantiate(&entry.exec, graph, 0);
  cudaGraphDestroy(graph);
  check(made, "graph");
}

void Graphs::clear() {
  for (auto& [key, entry] : entries_)
    if (entry.exec != nullptr) cudaGraphExecDestroy(entry.exec);
  entries_.clear();
}

}  // namespace nightshift::kernels::cuda
