// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "parallel/parallel.h"

namespace nightshift::runtime {

// The ranks of `world` that run on this host, in order. Collective. (Hosts whose names collide, which takes
// bad luck, pass for one.)
parallel::Communicator ranks_of_host(const parallel::Communicator& world);

// Bytes of this process: all that is resident, and its share of it where pages are held by several.
std::uint64_t resident_bytes();
std::uint64_t proportional_bytes();

}  // namespace nightshift::runtime
