// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "parallel/parallel.h"

namespace nightshift::parallel {
namespace {

Degrees checked(const Communicator& world, const Degrees& degrees) {
  NS_CHECK(degrees.sequence >= 1 && degrees.tensor >= 1, "degrees {} x {}", degrees.sequence, degrees.tensor);
  const int each = degrees.ranks();
  if (world.size() % each != 0)
    throw BadInput(
        fmt::format("{} ranks are no whole number of replicas of {} ranks (sequence {} x tensor {})",
                    world.size(), each, degrees.sequence, degrees.tensor),
        fmt::format("start a multiple of {} ranks, or choose other degrees under [parallel]", each));
  return degrees;
}

}  // namespace

// A split orders ranks by key, so the order of every group is said here and nowhere else.
DeviceMesh::DeviceMesh(const Communicator& world, const Degrees& degrees)
    : world_(&world),
      degrees_(checked(world, degrees)),
      replicas_(world.size() / degrees.ranks()),
      replica_index_(world.rank() / degrees.ranks()),
      place_(place_of(world.rank() % degrees.ranks(), degrees)),
      replica_(world.split(replica_index_, world.rank())),
      base_sequence_(replica_.split(place_.t, place_.s)),
      base_tensor_(replica_.split(place_.s, place_.t)),
      alone_(replica_.split(replica_.rank(), 0)),
      shift_tensor_(replica_.split(0, chunk())) {}

const Communicator& DeviceMesh::sequence_group(Layout layout) const {
  return layout == Layout::base ? base_sequence_ : alone_;
}

const Communicator& DeviceMesh::tensor_group(Layout layout) const {
  return layout == Layout::base ? base_tensor_ : shift_tensor_;
}

}  // namespace nightshift::parallel
