# SPDX-License-Identifier: Apache-2.0
# The serial C library: one process writes one file, so parallel HDF5 is not needed.
set(HDF5_PREFER_PARALLEL FALSE)
find_package(HDF5 REQUIRED COMPONENTS C)
if(NOT TARGET hdf5::hdf5)   # CMake before 3.19, or an HDF5 found through its compiler wrapper, gives variables only
  add_library(nightshift_hdf5 INTERFACE)
  add_library(hdf5::hdf5 ALIAS nightshift_hdf5)
  target_include_directories(nightshift_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
  target_compile_definitions(nightshift_hdf5 INTERFACE ${HDF5_C_DEFINITIONS})
  target_link_libraries(nightshift_hdf5 INTERFACE ${HDF5_C_LIBRARIES})
endif()
