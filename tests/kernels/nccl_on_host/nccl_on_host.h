// SPDX-License-Identifier: Apache-2.0
// NCCL on the host: the calls that kernels/cuda makes, between processes of one host, over memory that both
// this library and the caller can read. Data moves inside the calls. Asks of callers what NCCL asks, and
// answers misuse with an error in place of a hang: counts, types, roots and calls that differ between two
// ranks, two ranks on one GPU, sends and receives outside of a group, buffers that overlap where they must
// not, calls that the others never make (after NCCL_ON_HOST_TIMEOUT seconds, default 60).
//
// NCCL_ON_HOST_VERSION gives another version number than 22809. NCCL_ON_HOST_SHARED_GPU=1 allows several
// ranks on one GPU.
//
// Two functions for tests, found by dlsym in the library that NIGHTSHIFT_NCCL_LIBRARY names:
#pragma once

#include <string>

#pragma GCC visibility push(default)
extern "C" {
// The calls since the last look, one a line, in order: "ncclSend 16 int8 to 1". Calls of a group stand
// between ncclGroupStart and ncclGroupEnd; errors follow their call, as "error: ...".
void nccl_on_host_take_record(std::string* lines);
// From now on the communicators of this process are in this state (ncclResult_t) asynchronously.
void nccl_on_host_fail(int result);
}
#pragma GCC visibility pop
