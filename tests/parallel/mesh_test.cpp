// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/check.h"
#include "parallel/parallel.h"

namespace nightshift::parallel {
namespace {

// World ranks of a communicator's members in its order.
std::vector<int> members(const Communicator& of, int world_rank) {
  std::vector<std::int64_t> blocks(static_cast<std::size_t>(of.size()), sizeof(int));
  std::vector<int> ranks(blocks.size());
  ranks[static_cast<std::size_t>(of.rank())] = world_rank;
  of.all_gather(Traffic::orders, ranks.data(), blocks);
  return ranks;
}

void check_mesh(const Communicator& world, const Degrees& degrees) {
  const int each = degrees.ranks(), me = world.rank(), first = me / each * each;
  const int s = (me - first) / degrees.tensor, t = (me - first) % degrees.tensor;
  const DeviceMesh mesh(world, degrees);
  EXPECT_EQ(&mesh.world(), &world);
  EXPECT_EQ(mesh.degrees(), degrees);
  EXPECT_EQ(mesh.replicas(), world.size() / each);
  EXPECT_EQ(mesh.replica_index(), me / each);
  EXPECT_EQ(mesh.place().s, s);
  EXPECT_EQ(mesh.place().t, t);
  EXPECT_EQ(mesh.chunk(), t * degrees.sequence + s);
  EXPECT_EQ(mesh.leads(), me == first);

  std::vector<int> replica, sequence, tensor, shift;
  for (int r = 0; r < each; ++r) replica.push_back(first + r);
  for (int i = 0; i < degrees.sequence; ++i) sequence.push_back(first + i * degrees.tensor + t);
  for (int i = 0; i < degrees.tensor; ++i) tensor.push_back(first + s * degrees.tensor + i);
  for (int i = 0; i < degrees.tensor; ++i)
    for (int j = 0; j < degrees.sequence; ++j) shift.push_back(first + j * degrees.tensor + i);
  EXPECT_EQ(members(mesh.replica(), me), replica);
  EXPECT_EQ(members(mesh.sequence_group(Layout::base), me), sequence);
  EXPECT_EQ(members(mesh.tensor_group(Layout::base), me), tensor);
  EXPECT_EQ(members(mesh.sequence_group(Layout::shift), me), std::vector<int>{me});
  EXPECT_EQ(members(mesh.tensor_group(Layout::shift), me), shift);
  EXPECT_EQ(mesh.tensor_group(Layout::shift).rank(), mesh.chunk());
}

TEST(DeviceMesh, GroupsHaveTheRightMembersInTheRightOrder) {
  const Communicator world = Communicator::world();
  for (int sequence = 1; sequence <= world.size(); ++sequence)
    for (int tensor = 1; sequence * tensor <= world.size(); ++tensor)
      if (world.size() % (sequence * tensor) == 0) {
        SCOPED_TRACE(fmt::format("sequence {} x tensor {}", sequence, tensor));
        check_mesh(world, {sequence, tensor});
      }
}

TEST(DeviceMesh, TheWorldIsAWholeNumberOfReplicas) {
  const Communicator world = Communicator::world();
  try {
    const DeviceMesh mesh(world, {3, 1});
    FAIL() << world.size() << " ranks were cut in threes";
  } catch (const BadInput& error) {
    EXPECT_NE(error.summary().find("replicas of 3 ranks (sequence 3 x tensor 1)"), std::string::npos);
  }
  EXPECT_THROW(DeviceMesh(world, {0, 1}), Error);
}

// Many meshes, one after the other: a leaked communicator would use up MPI's context ids.
TEST(DeviceMesh, CommunicatorsAreFreed) {
  const Communicator world = Communicator::world();
  for (int i = 0; i < 200; ++i) {
    const DeviceMesh mesh(world, {world.size(), 1});
    ASSERT_EQ(mesh.replica().size(), world.size());
  }
}

}  // namespace
}  // namespace nightshift::parallel
