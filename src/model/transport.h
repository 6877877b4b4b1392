// SPDX-License-Identifier: Apache-2.0
// How ranks with GPUs exchange a step's tensors.
#pragma once

#include <cstdint>
#include <string_view>

namespace nightshift::model {

// automatic takes NCCL where every rank of a group has a GPU of its own and NCCL is there, else MPI through
// host memory. CPUs always use MPI on their own memory.
enum class Transport : std::uint8_t { automatic, nccl, mpi };
Transport transport_named(std::string_view name);  // "auto", "nccl", "mpi"; throws BadInput for others

}  // namespace nightshift::model
