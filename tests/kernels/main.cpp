// SPDX-License-Identifier: Apache-2.0
// The kernel tests run under the guard that the worker runs under. Three threads, so that backends with 1, 2
// and 3 can be compared even on a machine with two cores.
#include <gtest/gtest.h>

#include "kernels/kernels.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const nightshift::kernels::Environment environment(3);
  return RUN_ALL_TESTS();
}
