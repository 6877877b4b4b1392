# SPDX-License-Identifier: Apache-2.0
nightshift_mpi_test(runtime 1 runtime_test)
foreach(ranks 2 4)
  nightshift_mpi_test(runtime ${ranks} runtime_test --gtest_filter=*ReplicaTest.*:CalibrateTest.*:IntakeTest.*)
endforeach()
