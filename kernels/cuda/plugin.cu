// SPDX-License-Identifier: Apache-2.0
// The library's door: what kernels/gpu.cpp looks up by name.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/group.h"
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

__attribute__((visibility("default"))) int nightshift_gpu_number(
    const nightshift::kernels::Backend* backend) {
  return static_cast<const nightshift::kernels::cuda::CudaBackend&>(*backend).gpu();
}

__attribute__((visibility("default"))) void nightshift_why_no_gpu_group(std::string* reason) {
  *reason = nightshift::kernels::cuda::why_no_group();
}

__attribute__((visibility("default"))) void nightshift_gpu_group_id(nightshift::kernels::GpuGroupId* id) {
  *id = nightshift::kernels::cuda::new_group_id();
}

__attribute__((visibility("default"))) nightshift::kernels::GpuGroup* nightshift_gpu_group(
    nightshift::kernels::Backend* backend, const nightshift::kernels::GpuGroupId* id, int rank, int size,
    const char* name) {
  auto& cuda = static_cast<nightshift::kernels::cuda::CudaBackend&>(*backend);
  return nightshift::kernels::cuda::make_group(cuda, *id, rank, size, name).release();
}
}
