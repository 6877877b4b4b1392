# SPDX-License-Identifier: Apache-2.0
# What a GPU build proves: without a GPU, docs/kernels.md and what ptxas said; with one, the kernel tests on it.
if(Python3_FOUND AND TARGET kernels_test)
  add_test(NAME kernels_table COMMAND Python3::Interpreter ${CMAKE_SOURCE_DIR}/tests/kernels/kernel_table.py)
  set_tests_properties(kernels_table PROPERTIES LABELS unit)
endif()
if(Python3_FOUND AND TARGET nightshift_cuda)
  add_test(NAME kernels_registers COMMAND Python3::Interpreter ${CMAKE_SOURCE_DIR}/tests/kernels/kernel_table.py
    --ptxas $<TARGET_FILE_DIR:nightshift_cuda>/.. --compiler ${NIGHTSHIFT_NVCC_VERSION})
  set_tests_properties(kernels_registers PROPERTIES LABELS unit)
endif()
if(TARGET kernels_test AND TARGET nightshift_cuda)
  add_test(NAME kernels_gpu COMMAND kernels_test --gtest_filter=*/cuda:*/cuda_fast)
  set_tests_properties(kernels_gpu PROPERTIES LABELS gpu FAIL_REGULAR_EXPRESSION "PASSED  . 0 tests" ENVIRONMENT
    "OMP_WAIT_POLICY=passive;OMP_PROC_BIND=false;NIGHTSHIFT_CUDA_LIBRARY=$<TARGET_FILE:nightshift_cuda>")
endif()
# The kit itself, on the simulated GPU: its steps work, and its checks hold there.
if(TARGET nightshift_cuda_simulated AND TARGET nightshift-rank AND TARGET offline_bench)
  add_test(NAME gpu_kit COMMAND bash ${CMAKE_SOURCE_DIR}/tests/gpu/run.sh ${CMAKE_BINARY_DIR} --seconds 280
    --report ${CMAKE_BINARY_DIR}/gpu-report.md)
  set_tests_properties(gpu_kit PROPERTIES LABELS slow TIMEOUT 300 SKIP_RETURN_CODE 77 RUN_SERIAL TRUE
    ENVIRONMENT "NIGHTSHIFT_CUDA_LIBRARY=$<TARGET_FILE:nightshift_cuda_simulated>")
endif()
