// SPDX-License-Identifier: Apache-2.0
// Messages of any size in flight together. Private to the room.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <vector>

namespace nightshift::parallel {

// Blocks of memory sent to and received from other ranks of a communicator, until wait() returns. MPI counts
// in int, so blocks above `piece` bytes travel in pieces of that size; both sides must use the same one.
// Memory for requests is kept: a step in steady state allocates nothing.
class Transfers {
 public:
  static constexpr std::int64_t kPiece = std::int64_t{1} << 30;

  explicit Transfers(MPI_Comm comm, std::int64_t piece = kPiece) : comm_(comm), piece_(piece) {}

  void receive(void* to, std::int64_t bytes, int source);
  void send(const void* from, std::int64_t bytes, int target);
  void wait();

 private:
  MPI_Comm comm_;
  std::int64_t piece_;
  std::vector<MPI_Request> requests_;
};

}  // namespace nightshift::parallel
