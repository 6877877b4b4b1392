// SPDX-License-Identifier: Apache-2.0
// Device memory of the simulated GPU.
#pragma once

#include <cstddef>

namespace nightshift::simulated {

// 256-byte aligned as cudaMalloc's, full of NaNs, with a guard behind it.
void* allocate(std::size_t bytes);
// The same, known as page-locked memory of the host until it is released.
void* allocate_host(std::size_t bytes);
bool is_host_memory(const void* data);
// Ends the program when the guard has been written to.
void release(void* data);

}  // namespace nightshift::simulated
