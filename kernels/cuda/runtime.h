// SPDX-License-Identifier: Apache-2.0
// The one wrapper around the CUDA runtime: checked calls and kernel launches.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "core/check.h"
#include "kernels/cuda/lane.cuh"

namespace nightshift::kernels::cuda {

// Throws Error with CUDA's own words. `what` names the operation and its object, as in errors of other rooms.
inline void check(cudaError_t code, const std::string& what) {
  if (code == cudaSuccess) return;
  throw Error(fmt::format("{}: {}", what, cudaGetErrorString(code)),
              code == cudaErrorMemoryAllocation
                  ? "use more GPUs, a smaller KV cache (schedule.kv_memory), or a smaller model"
                  : "see the GPU's log (dmesg, nvidia-smi); run.device = \"cpu\" runs without it");
}

// Starts `kernel` on the stream; errors of the launch itself are found here, those of the kernel at the next
// synchronisation. threads: a multiple of 32.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t shared_bytes,
            cudaStream_t stream, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(__CUDACC__)
  constexpr std::size_t kAlwaysThere = 48 << 10;
  if (shared_bytes > kAlwaysThere) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          name);
  }
  kernel<<<grid, threads, shared_bytes, stream>>>(Parameters(arguments)...);
  check(cudaGetLastError(), name);
#else
  static_cast<void>(name);
  static_cast<void>(stream);
  simulated::submit([=] {
    simulated::run_grid(grid, dim3(static_cast<unsigned>(threads)), shared_bytes,
                        [&] { kernel(Parameters(arguments)...); });
  });
#endif
}

}  // namespace nightshift::kernels::cuda
