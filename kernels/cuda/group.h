// SPDX-License-Identifier: Apache-2.0
// GpuGroup over NCCL (kernels/gpu.h), and what tells GPUs apart.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "kernels/gpu.h"

namespace nightshift::kernels::cuda {

std::string identity_of(int device);

std::string why_no_group();
GpuGroupId new_group_id();
// `stream`: of that device; all exchanges go there.
std::unique_ptr<GpuGroup> make_group(cudaStream_t stream, int device, const GpuGroupId& id, int rank,
                                     int size, const std::string& name);

}  // namespace nightshift::kernels::cuda
