// SPDX-License-Identifier: Apache-2.0
// What was built: for --version, run records and provenance.
#pragma once

namespace nightshift::runtime {

const char* version();  // "0.1.0"
const char*
git_revision();  // "1d2d03300000", with "-dirty" behind for changed sources; "unknown" outside git
const char* compiled_backends();  // "portable, avx512_bf16"
bool compiled_with_cuda();

}  // namespace nightshift::runtime
