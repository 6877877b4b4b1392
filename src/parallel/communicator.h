// SPDX-License-Identifier: Apache-2.0
// The MPI handle behind a Communicator. Private to the room.
#pragma once

#include <mpi.h>

#include <exception>

#include "parallel/parallel.h"

namespace nightshift::parallel {

struct Communicator::Impl {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0;
  int size = 1;
  int host_rank = 0;
  int host_size = 1;
  int exceptions = std::uncaught_exceptions();

  explicit Impl(MPI_Comm owned);
  ~Impl();
};

}  // namespace nightshift::parallel
