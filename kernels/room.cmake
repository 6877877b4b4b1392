# SPDX-License-Identifier: Apache-2.0
# OpenMP for the thread team, and instruction sets per file: no -march anywhere else, a binary runs on every node.
find_package(OpenMP REQUIRED COMPONENTS CXX)
target_link_libraries(nightshift_kernels PRIVATE OpenMP::OpenMP_CXX)

# Optimised in debug builds too: checks stay on, but unoptimised arithmetic would make every test above this room crawl.
target_compile_options(nightshift_kernels PRIVATE $<$<CONFIG:Debug>:-O2>)

include(CheckCXXCompilerFlag)
set(avx512_flags -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma
  -Wno-uninitialized -Wno-maybe-uninitialized)   # GCC 12 warns of its own intrinsics' undefined operands (bug 105593)
check_cxx_compiler_flag("-mavx512f -mavx512bf16" NIGHTSHIFT_COMPILER_HAS_AVX512_BF16)
file(GLOB avx512_sources ${CMAKE_CURRENT_LIST_DIR}/avx512_*.cpp)
if(avx512_sources AND NIGHTSHIFT_COMPILER_HAS_AVX512_BF16)
  set_source_files_properties(${avx512_sources} PROPERTIES COMPILE_OPTIONS "${avx512_flags}")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/avx512.cpp PROPERTIES COMPILE_DEFINITIONS NIGHTSHIFT_BUILD_AVX512)
else()
  set_source_files_properties(${avx512_sources} PROPERTIES HEADER_FILE_ONLY ON)
endif()

if(NIGHTSHIFT_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(nightshift_kernels PRIVATE -Wno-tsan)   # it does not follow the fences in Kokkos' headers
endif()

# GPUs come as a library of their own (kernels/gpu.h).
target_link_libraries(nightshift_kernels PRIVATE ${CMAKE_DL_LIBS})
