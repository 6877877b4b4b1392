// SPDX-License-Identifier: Apache-2.0
// The MPI handle behind a Communicator. Private to the room.
#pragma once

#include <mpi.h>

#include <exception>

#include "parallel/parallel.h"
#include "parallel/transfers.h"

namespace nightshift::parallel {

// What a family of communicators has in common: the world and everything split from it.
struct Family {
  TrafficSums traffic{};
  TraceLog* log = nullptr;
};

struct Communicator::Impl {
  MPI_Comm comm = MPI_COMM_NULL;
  std::shared_ptr<Family> family;
  Transfers transfers;
  int rank = 0;
  int size = 1;
  int host_rank = 0;
  int host_size = 1;
  int exceptions = std::uncaught_exceptions();

  Impl(MPI_Comm owned, std::shared_ptr<Family> of);
  ~Impl();
};

}  // namespace nightshift::parallel
