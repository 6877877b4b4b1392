// SPDX-License-Identifier: Apache-2.0
#include "parallel/transfers.h"

#include <algorithm>

#include "parallel/mpi_check.h"

namespace nightshift::parallel {
namespace {

constexpr int kTag = 1;  // one for all: MPI keeps the order of messages between two ranks

}  // namespace

void Transfers::receive(void* to, std::int64_t bytes, int source) {
  for (std::int64_t at = 0; at < bytes; at += piece_)
    NS_MPI(MPI_Irecv(static_cast<char*>(to) + at, static_cast<int>(std::min(piece_, bytes - at)), MPI_BYTE,
                     source, kTag, comm_, &requests_.emplace_back()));
}

void Transfers::send(const void* from, std::int64_t bytes, int target) {
  for (std::int64_t at = 0; at < bytes; at += piece_)
    NS_MPI(MPI_Isend(static_cast<const char*>(from) + at, static_cast<int>(std::min(piece_, bytes - at)),
                     MPI_BYTE, target, kTag, comm_, &requests_.emplace_back()));
}

void Transfers::wait() {
  NS_MPI(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE));
  requests_.clear();
}

}  // namespace nightshift::parallel
