# SPDX-License-Identifier: Apache-2.0
target_compile_options(kernels_test PRIVATE $<$<CONFIG:Debug>:-O1>)   # references in doubles, element by element
add_test(NAME kernels COMMAND kernels_test)
set_tests_properties(kernels PROPERTIES LABELS unit ENVIRONMENT "OMP_WAIT_POLICY=passive;OMP_PROC_BIND=false")

# Files compiled for AVX-512 must not define symbols that the linker may pick for the whole program.
add_test(NAME kernels_no_shared_symbols
  COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DLIBRARY=$<TARGET_FILE:nightshift_kernels>
          -P ${CMAKE_SOURCE_DIR}/tests/kernels/no_shared_symbols.cmake)
set_tests_properties(kernels_no_shared_symbols PROPERTIES LABELS unit)

# The CUDA kernels on a simulated GPU (tests/kernels/cuda_on_host). Attention has a test of its own, because it takes longer than all
# others, and runs in the strict set alone: the choice between strict and fast is one of products. The tests of orders look for races:
# threads and blocks take turns from the last to the first, and shuffled.
function(nightshift_simulated_gpu_test name filter)
  add_test(NAME kernels_simulated_gpu_${name} COMMAND kernels_test --gtest_filter=${filter})
  set_tests_properties(kernels_simulated_gpu_${name} PROPERTIES LABELS unit TIMEOUT 900 ENVIRONMENT
    "OMP_WAIT_POLICY=passive;OMP_PROC_BIND=false;CUDA_VISIBLE_DEVICES=0;NIGHTSHIFT_CUDA_LIBRARY=$<TARGET_FILE:nightshift_cuda_simulated>;${ARGN}")
endfunction()
nightshift_simulated_gpu_test(attention "*/Attention.*/cuda")
nightshift_simulated_gpu_test(others "*/cuda:*/cuda_fast:-*/Attention.*")
set(racing "*/Agreement.*/cuda:*/Attention.AgreesWithDoublesForEveryShape/cuda:*/Attention.BatchComposition*/cuda:*/Rows.*/cuda")
nightshift_simulated_gpu_test(descending "${racing}" NIGHTSHIFT_SIMULATED_ORDER=descending)
nightshift_simulated_gpu_test(shuffled "${racing}" NIGHTSHIFT_SIMULATED_ORDER=shuffled:7)
