// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/kernels.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const nightshift::kernels::Environment environment(3);  // more than one even on a single core
  return RUN_ALL_TESTS();
}
