# SPDX-License-Identifier: Apache-2.0
# Suites named ...Slow write gigabytes; they run on demand. Tests that need h5py skip themselves where there is none.
add_test(NAME io COMMAND io_test --gtest_filter=-*Slow.*)
set_tests_properties(io PROPERTIES LABELS unit)
add_test(NAME io_slow COMMAND io_test --gtest_filter=*Slow.*-ResultsSlow.MemoryHasABound*)
# Measures its process, which holds on to what other tests have freed.
add_test(NAME io_memory COMMAND io_test --gtest_filter=ResultsSlow.MemoryHasABound*)
set_tests_properties(io_slow io_memory PROPERTIES LABELS slow)
