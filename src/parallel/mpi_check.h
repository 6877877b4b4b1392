// SPDX-License-Identifier: Apache-2.0
// The one place where MPI return codes become errors. Private to the room.
#pragma once

#include <mpi.h>

namespace nightshift::parallel {

// Throws Error naming the call, this rank and host, and MPI's own words.
void mpi_check(int code, const char* call);

}  // namespace nightshift::parallel

#define NS_MPI(call) ::nightshift::parallel::mpi_check((call), #call)
