# SPDX-License-Identifier: Apache-2.0
set(backends "portable")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  string(APPEND backends ", avx512_bf16")
endif()
add_custom_target(nightshift_git_revision
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR} -DOUTPUT=${CMAKE_BINARY_DIR}/generated/git_revision.h
    -P ${CMAKE_CURRENT_LIST_DIR}/git_revision.cmake
  BYPRODUCTS ${CMAKE_BINARY_DIR}/generated/git_revision.h)
add_dependencies(nightshift_job nightshift_git_revision)
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/version.cpp PROPERTIES
  INCLUDE_DIRECTORIES ${CMAKE_BINARY_DIR}/generated
  COMPILE_DEFINITIONS
    "NIGHTSHIFT_VERSION=\"${PROJECT_VERSION}\";NIGHTSHIFT_BACKENDS=\"${backends}\"")
