# SPDX-License-Identifier: Apache-2.0
add_test(NAME model COMMAND model_test --gtest_filter=-DeviceSampling*)
set_tests_properties(model PROPERTIES LABELS unit ENVIRONMENT "OMP_WAIT_POLICY=passive;OMP_PROC_BIND=false")

# What needs a GPU, on a simulated one.
add_test(NAME model_simulated_gpu COMMAND model_test --gtest_filter=DeviceSampling*)
set_tests_properties(model_simulated_gpu PROPERTIES LABELS unit TIMEOUT 600 ENVIRONMENT
  "OMP_WAIT_POLICY=passive;OMP_PROC_BIND=false;NIGHTSHIFT_CUDA_LIBRARY=$<TARGET_FILE:nightshift_cuda_simulated>")

# One model over several ranks.
add_executable(model_ranks_test tests/model/ranks/main.cpp tests/model/ranks/layouts_test.cpp
  tests/model/ranks/traffic_test.cpp tests/model/ranks/likelihood_test.cpp tests/model/golden_models.cpp)
target_include_directories(model_ranks_test PRIVATE ${CMAKE_SOURCE_DIR}/tests)
target_compile_definitions(model_ranks_test PRIVATE NIGHTSHIFT_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
target_link_libraries(model_ranks_test PRIVATE nightshift_flags nightshift_model GTest::gtest)
foreach(ranks 1 2 4 8)
  nightshift_mpi_test(model ${ranks} model_ranks_test)
endforeach()
nightshift_mpi_test(model 6 model_ranks_test --gtest_filter=Models*)   # 3 x 2: no power of two
