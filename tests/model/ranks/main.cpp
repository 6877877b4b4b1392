// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "model/over_world.h"
#include "model/ranks/ranks.h"

namespace nightshift::test {
const parallel::Communicator* test_world = nullptr;
}

int main(int argc, char** argv) {
  return nightshift::test::run_over_world(argc, argv);
}
