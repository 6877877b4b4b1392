// SPDX-License-Identifier: Apache-2.0
// Runs a test program on all ranks of mpirun: one voice, and failures of any rank fail the run.
#pragma once

#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "parallel/parallel.h"

namespace nightshift::test {

extern const parallel::Communicator* test_world;

inline int run_over_world(int argc, char** argv) {
  parallel::Environment mpi(&argc, &argv);
  const auto world = parallel::Communicator::world();
  const kernels::Environment compute(1);
  test_world = &world;
  testing::InitGoogleTest(&argc, argv);
  if (world.rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  return static_cast<int>(world.max(RUN_ALL_TESTS()));
}

}  // namespace nightshift::test
