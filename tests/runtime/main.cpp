// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "parallel/parallel.h"

int main(int argc, char** argv) {
  nightshift::parallel::Environment mpi(&argc, &argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
