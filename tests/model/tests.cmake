# SPDX-License-Identifier: Apache-2.0
add_test(NAME model COMMAND model_test --gtest_filter=-DeviceSampling*)
set_tests_properties(model PROPERTIES LABELS unit ENVIRONMENT "OMP_WAIT_POLICY=passive;OMP_PROC_BIND=false")

# On a simulated GPU: what needs one, and whole models.
add_test(NAME model_simulated_gpu COMMAND model_test
  --gtest_filter=DeviceSampling*:*Goldens.Agrees*:ModelDoor.Nan*:Models/*llama*_cuda:Models/*window*_cuda)
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

# Exchanges between simulated GPUs, one a rank, over NCCL's stand-in and over MPI.
file(GLOB collectives_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/model/collectives/*.cpp)
add_executable(collectives_test ${collectives_sources} tests/model/golden_models.cpp)
add_dependencies(collectives_test nightshift_cuda_simulated nccl_on_host)
target_include_directories(collectives_test PRIVATE ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/tests/kernels)
target_compile_definitions(collectives_test PRIVATE NIGHTSHIFT_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
  NIGHTSHIFT_SIMULATED_CUDA="${CMAKE_BINARY_DIR}/simulated/nightshift-cuda-simulated.so"
  NIGHTSHIFT_NCCL_ON_HOST="${CMAKE_BINARY_DIR}/simulated/nccl-on-host.so")
target_link_libraries(collectives_test PRIVATE nightshift_flags nightshift_model GTest::gtest ${CMAKE_DL_LIBS})
foreach(ranks 2 4)
  nightshift_mpi_test(collectives ${ranks} collectives_test --gtest_filter=-WithoutNccl*)
endforeach()
nightshift_mpi_test(collectives_without_nccl 2 collectives_test --gtest_filter=WithoutNccl*)
nightshift_mpi_test(collectives_nccl_2_27 2 collectives_test --gtest_filter=Calls*:Transports*:*Steps*)
set_property(TEST collectives_nccl_2_27_mpi2 APPEND PROPERTY ENVIRONMENT NCCL_ON_HOST_VERSION=22703)
