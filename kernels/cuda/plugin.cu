// SPDX-License-Identifier: Apache-2.0
// The library's door: what kernels/gpu.cpp looks up by name.
#include "kernels/cuda/backend.h"
#include "kernels/gpu.h"

extern "C" {

__attribute__((visibility("default"))) int nightshift_gpu_count() {
  return nightshift::kernels::cuda::device_count();
}

__attribute__((visibility("default"))) void nightshift_gpu_facts(int device,
                                                                 nightshift::kernels::GpuFacts& facts) {
  nightshift::kernels::cuda::describe(device, facts);
}

// Throws as any constructor; the caller owns the backend and keeps the library.
__attribute__((visibility("default"))) nightshift::kernels::Backend* nightshift_gpu_backend(int device,
                                                                                            bool strict) {
  return new nightshift::kernels::cuda::CudaBackend(device, strict);
}
}
