// SPDX-License-Identifier: Apache-2.0
// GpuGroup over NCCL (kernels/gpu.h).
#pragma once

#include <memory>
#include <string>

#include "kernels/cuda/backend.h"
#include "kernels/gpu.h"

namespace nightshift::kernels::cuda {

std::string why_no_group();
GpuGroupId new_group_id();
std::unique_ptr<GpuGroup> make_group(CudaBackend& backend, const GpuGroupId& id, int rank, int size,
                                     const std::string& name);

}  // namespace nightshift::kernels::cuda
