# SPDX-License-Identifier: Apache-2.0
foreach(ranks 1 2 4 8)
  nightshift_mpi_test(parallel ${ranks} parallel_test)
endforeach()
