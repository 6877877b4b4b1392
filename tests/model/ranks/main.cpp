// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "model/ranks/ranks.h"

namespace nightshift::test {
const parallel::Communicator* test_world = nullptr;
}

int main(int argc, char** argv) {
  nightshift::parallel::Environment mpi(&argc, &argv);
  const auto world = nightshift::parallel::Communicator::world();
  const nightshift::kernels::Environment compute(1);
  nightshift::test::test_world = &world;
  testing::InitGoogleTest(&argc, argv);
  if (world.rank() != 0) {  // one voice; failures of other ranks still fail the run
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  return static_cast<int>(world.max(RUN_ALL_TESTS()));
}
