// SPDX-License-Identifier: Apache-2.0
// GPUs, behind a library of their own that is loaded when it is there: one program runs on machines with and
// without a driver, and on those without the CUDA libraries.
#pragma once

#include <memory>
#include <string>

#include "kernels/kernels.h"

namespace nightshift::kernels {

// GPUs that this process can use; 0 without the library nightshift-cuda.so beside the program
// (NIGHTSHIFT_CUDA_LIBRARY names another), without a driver, and without a device.
int gpu_count();

// Why gpu_count() is 0, for people: "no nightshift-cuda.so beside nightshift-rank", ...; empty where there
// are GPUs.
std::string why_no_gpu();

struct GpuFacts {
  std::string identity;          // "0000:1b:00.0", of the device on its host
  std::uint64_t free_bytes = 0;  // of its memory
};
GpuFacts gpu_facts(int device);  // throws Error with why_no_gpu() where there is none

// Throws Error with why_no_gpu() where there is none.
std::unique_ptr<Backend> make_gpu_backend(int device, bool strict);

}  // namespace nightshift::kernels
