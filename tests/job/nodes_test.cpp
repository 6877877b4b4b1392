// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/nodes.h"

#include <gtest/gtest.h>

namespace nightshift::runtime {
namespace {

using Names = std::vector<std::string>;

TEST(Nodes, ThoseThatAnswerAreUsable) {
  EXPECT_EQ(usable_nodes("n1 alloc\nn2 down*\nn3 mix\nn4 idle\nn5 drain\nn6 alloc*\nn7 fail\n"),
            (Names{"n1", "n3", "n4"}));
  EXPECT_EQ(usable_nodes("n1 alloc@\nn2 mix-\nn3 drng@\nn4 idle~\nn5 mixed$\nn6 down$\n"),
            (Names{"n1", "n2", "n3", "n5"}));
  EXPECT_EQ(usable_nodes("n1 alloc\nn1 alloc\nn2 alloc\n"), (Names{"n1", "n2"})) << "nodes of two partitions";
  EXPECT_EQ(usable_nodes(""), Names{});
}

Geometry of(int replicas, int sequence, int tensor, int nodes) {
  Geometry g;
  g.replicas = replicas;
  g.degrees = {sequence, tensor};
  g.ranks = replicas * sequence * tensor;
  g.ranks_per_node = (g.ranks + nodes - 1) / nodes;
  return g;
}

TEST(Nodes, AShrunkJobHasWholeReplicasAndNodesAsFullAsBefore) {
  EXPECT_EQ(shrink(of(8, 1, 1, 4), 4, 3).ranks, 6);
  EXPECT_EQ(shrink(of(8, 1, 1, 4), 4, 4).ranks, 8);
  const Geometry wide = shrink(of(2, 4, 1, 4), 4, 3);  // a replica spans two nodes
  EXPECT_EQ(wide.ranks, 4);
  EXPECT_EQ(wide.replicas, 1);
  EXPECT_EQ(wide.ranks_per_node, 2);
  EXPECT_EQ(shrink(of(1, 8, 1, 4), 4, 3).ranks, 0) << "not one replica fits";
  EXPECT_EQ(shrink(of(5, 1, 1, 4), 4, 3).ranks, 5) << "2 + 2 + 1 + 0: the last node had nothing to do";
}

TEST(Nodes, ANodeThatOnlyLooksAliveIsLeftOut) {
  const Names asked = {"n1", "n3", "n4"};
  EXPECT_EQ(answering_nodes("n4\nn1\n", asked), (Names{"n1", "n4"}));
  EXPECT_EQ(answering_nodes("srun: error: n3\nn10\n", asked), Names{});
}

TEST(Nodes, TheLauncherIsToldWhere) {
  LaunchCommand command{{"srun", "--ntasks", "4", "nightshift-rank"}, {}};
  keep_to_nodes(command, {"n1", "n3"}, 2);
  EXPECT_EQ(command.argv,
            (Names{"srun", "--nodes", "2", "--nodelist", "n1,n3", "--ntasks", "4", "nightshift-rank"}));
  LaunchCommand mpirun{{"mpirun", "-np", "4", "nightshift-rank"}, {}};
  keep_to_nodes(mpirun, {"n1", "n3"}, 2);
  EXPECT_EQ(mpirun.argv, (Names{"mpirun", "--host", "n1:2,n3:2", "-np", "4", "nightshift-rank"}));
}

}  // namespace
}  // namespace nightshift::runtime
