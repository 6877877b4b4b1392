# SPDX-License-Identifier: Apache-2.0
target_compile_options(kernels_test PRIVATE $<$<CONFIG:Debug>:-O1>)   # references in doubles, element by element
add_test(NAME kernels COMMAND kernels_test)
set_tests_properties(kernels PROPERTIES LABELS unit ENVIRONMENT "OMP_WAIT_POLICY=passive;OMP_PROC_BIND=false")

# Files compiled for AVX-512 must not define symbols that the linker may pick for the whole program.
add_test(NAME kernels_no_shared_symbols
  COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DLIBRARY=$<TARGET_FILE:nightshift_kernels>
          -P ${CMAKE_SOURCE_DIR}/tests/kernels/no_shared_symbols.cmake)
set_tests_properties(kernels_no_shared_symbols PROPERTIES LABELS unit)

# The CUDA kernels on a simulated GPU. Attention has a test of its own: it takes as long as the others together.
foreach(part attention others)
  add_test(NAME kernels_simulated_gpu_${part} COMMAND kernels_test --gtest_filter=$<IF:$<STREQUAL:${part},attention>,*Attention*/cuda,*/cuda:-*Attention*>)
  set_tests_properties(kernels_simulated_gpu_${part} PROPERTIES LABELS unit TIMEOUT 900 ENVIRONMENT
    "OMP_WAIT_POLICY=passive;OMP_PROC_BIND=false;CUDA_VISIBLE_DEVICES=0;NIGHTSHIFT_CUDA_LIBRARY=$<TARGET_FILE:nightshift_cuda_simulated>")
endforeach()
