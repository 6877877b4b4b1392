// SPDX-License-Identifier: Apache-2.0
// The GPUs of the simulated machine: NIGHTSHIFT_SIMULATED_GPUS of them (default 1), of which a process sees
// those that CUDA_VISIBLE_DEVICES numbers, as with the real driver.
#pragma once

#include <cstddef>

namespace nightshift::simulated {

int device_count();
bool set_device(int device);  // false: no such device
// "0000:03:00.0" for GPU 3 of the machine; false: no such device, or no room.
bool bus_address(int device, char* address, std::size_t bytes);

// The GPU that this process computes on, for libraries beside this one (nccl_on_host): its number in the
// machine, in this environment variable.
inline constexpr const char* kCurrentDevice = "NIGHTSHIFT_SIMULATED_CURRENT_GPU";

}  // namespace nightshift::simulated
