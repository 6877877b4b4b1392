# SPDX-License-Identifier: Apache-2.0
nightshift_mpi_test(runtime 1 runtime_test)
