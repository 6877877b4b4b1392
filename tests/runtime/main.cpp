// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "parallel/parallel.h"

int main(int argc, char** argv) {
  nightshift::parallel::Environment mpi(&argc, &argv);
  ::testing::InitGoogleTest(&argc, argv);
  const auto world = nightshift::parallel::Communicator::world();
  if (world.rank() != 0) {  // one voice; failures of other ranks still fail the run
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  const int failed = RUN_ALL_TESTS();
  return static_cast<int>(world.max(failed));
}
