// SPDX-License-Identifier: Apache-2.0
// The kernel tests run under the guard that the worker runs under. Three threads, so that backends with 1, 2
// and 3 can be compared even on a machine with two cores.
#include <gtest/gtest.h>

#include "kernels/kernels.h"

// Asking for an exabyte is one of the tests: under AddressSanitizer, too, that is a null pointer and not the
// end.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const nightshift::kernels::Environment environment(3);
  return RUN_ALL_TESTS();
}
