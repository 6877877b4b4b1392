// SPDX-License-Identifier: Apache-2.0
// What was built: for --version, run records and provenance.
#pragma once

#include <string>

namespace nightshift::runtime {

const char* version();  // "0.1.0"
const char*
git_revision();           // "1d2d03300000", with "-dirty" behind for changed sources; "unknown" outside git
std::string backends();   // "portable, avx512_bf16"; ", cuda" where the library of the CUDA kernels is there
bool has_cuda_library();  // beside the programs, or named by NIGHTSHIFT_CUDA_LIBRARY

}  // namespace nightshift::runtime
