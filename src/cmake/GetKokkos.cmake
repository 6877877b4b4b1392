# SPDX-License-Identifier: Apache-2.0
# Kokkos::kokkos, 3.4 to 5.x with its OpenMP backend. In this order: a source tree that the user names; an installed Kokkos
# (Kokkos_ROOT, CMAKE_PREFIX_PATH, module, Spack); the per-user cache; the pinned upstream release; the sources inside a
# package that pip can fetch; and last an installed Kokkos without OpenMP, such as Debian's Serial-only one, which computes
# the same bytes on one thread a rank.
include(Dependencies)

set(NIGHTSHIFT_KOKKOS_SOURCE "" CACHE PATH "Kokkos source tree to build (3.4 to 5.x)")
set(NIGHTSHIFT_KOKKOS_URL https://github.com/kokkos/kokkos/releases/download/4.7.01/kokkos-4.7.01.tar.gz
  CACHE STRING "where Kokkos is downloaded from")
mark_as_advanced(NIGHTSHIFT_KOKKOS_URL)

# Looks at every Kokkos that find_package would consider, without loading one (its targets could not be unloaded again).
# OUT_OPENMP, OUT_OTHER: the first folders whose KokkosConfig.cmake offers OpenMP, or only a slower host backend.
function(nightshift_installed_kokkos out_openmp out_other)
  set(openmp "")
  set(other "")
  find_package(Kokkos 9999 EXACT CONFIG QUIET)   # never satisfied: this only lists the candidates
  foreach(config version IN ZIP_LISTS Kokkos_CONSIDERED_CONFIGS Kokkos_CONSIDERED_VERSIONS)
    get_filename_component(dir ${config} DIRECTORY)
    set(devices "")
    if(EXISTS ${dir}/KokkosConfigCommon.cmake)
      file(STRINGS ${dir}/KokkosConfigCommon.cmake devices REGEX "^ *(set|SET) *\\( *Kokkos_DEVICES ")
    endif()
    if(version VERSION_LESS 3.4 OR devices MATCHES "CUDA|HIP|SYCL")
      message(STATUS "Kokkos: passing over ${version} in ${dir} (older than 3.4, or built for a device compiler)")
    elseif(devices MATCHES "OPENMP" AND NOT openmp)
      set(openmp ${dir})
    elseif(NOT other)
      set(other ${dir})
    endif()
  endforeach()
  set(${out_openmp} ${openmp} PARENT_SCOPE)
  set(${out_other} ${other} PARENT_SCOPE)
endfunction()

# Builds and installs a source tree. No -march here: the flags would spread to everything that includes Kokkos, and a program
# is to run on every node of its kind; instruction sets are chosen per file, at run time.
function(nightshift_build_kokkos source prefix)
  set(build ${CMAKE_BINARY_DIR}/_deps/kokkos-build)
  ProcessorCount(cores)
  message(STATUS "Kokkos: building ${source} (OpenMP and Serial; half a minute on two cores)")
  set(options "")
  if(CMAKE_CXX_COMPILER_LAUNCHER)
    list(APPEND options -DCMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER})
  endif()
  nightshift_run(${CMAKE_BINARY_DIR}/kokkos-configure.log "configuring Kokkos"
    ${CMAKE_COMMAND} -S ${source} -B ${build} -G ${CMAKE_GENERATOR} -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_STANDARD=20 -DCMAKE_CXX_EXTENSIONS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON
    -DBUILD_SHARED_LIBS=OFF -DKokkos_ENABLE_SERIAL=ON -DKokkos_ENABLE_OPENMP=ON -DKokkos_ENABLE_TESTS=OFF
    -DKokkos_ENABLE_EXAMPLES=OFF -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_INSTALL_PREFIX=${prefix} ${options})
  nightshift_run(${CMAKE_BINARY_DIR}/kokkos-build.log "building Kokkos"
    ${CMAKE_COMMAND} --build ${build} --target install --parallel ${cores})
endfunction()

# Fetches a source tree: OUT is its folder, or empty.
function(nightshift_fetch_kokkos out)
  set(work ${CMAKE_BINARY_DIR}/_deps/kokkos)
  file(MAKE_DIRECTORY ${work})
  message(STATUS "Kokkos: none installed with OpenMP; fetching the sources")
  nightshift_download(fetched ${NIGHTSHIFT_KOKKOS_URL}
    404cf33e76159e83b8b4ad5d86f6899d442b5da4624820ab457412116cdcd201 ${work}/kokkos.tar.gz)
  if(fetched)
    file(ARCHIVE_EXTRACT INPUT ${work}/kokkos.tar.gz DESTINATION ${work}/tree)
  else()
    # Kokkos 4.7.00, complete, among this package's third-party libraries.
    nightshift_sdist(fetched pygenten 0.1.5 e620f05c742905e2db705d875f1cac92ef0ed453f9e6734e9beda26cc0f9cce7 ${work})
    if(fetched)
      file(ARCHIVE_EXTRACT INPUT ${work}/pygenten-0.1.5.tar.gz DESTINATION ${work}/tree PATTERNS "*/tpls/kokkos/*")
    endif()
  endif()
  set(${out} "" PARENT_SCOPE)
  file(GLOB trees ${work}/tree/*/core/src/Kokkos_Core.hpp ${work}/tree/*/tpls/kokkos/core/src/Kokkos_Core.hpp)
  if(trees)
    list(GET trees 0 header)
    string(REPLACE /core/src/Kokkos_Core.hpp "" tree ${header})
    set(${out} ${tree} PARENT_SCOPE)
  endif()
endfunction()

# OUT: the cached installation's CMake folder, built first if need be; empty if no source could be had.
function(nightshift_cached_kokkos out)
  nightshift_toolchain_id(id 4.7 openmp serial pic)
  nightshift_cache(cache kokkos-4.7-${id})
  file(LOCK ${cache}/lock GUARD FUNCTION TIMEOUT 1200)   # other builds of this user wait for the first
  if(NOT EXISTS ${cache}/complete)
    nightshift_fetch_kokkos(tree)
    if(tree)
      nightshift_build_kokkos(${tree} ${cache})
      file(TOUCH ${cache}/complete)
    endif()
    file(REMOVE_RECURSE ${CMAKE_BINARY_DIR}/_deps/kokkos ${CMAKE_BINARY_DIR}/_deps/kokkos-build)
  endif()
  set(${out} "" PARENT_SCOPE)
  if(EXISTS ${cache}/complete)
    set(${out} ${cache}/lib/cmake/Kokkos PARENT_SCOPE)
  endif()
endfunction()

set(named ${NIGHTSHIFT_KOKKOS_SOURCE})
if(NOT named)
  set(named ${FETCHCONTENT_SOURCE_DIR_KOKKOS})
endif()
if(named)
  if(NOT EXISTS ${named}/core/src/Kokkos_Core.hpp)
    message(FATAL_ERROR "NIGHTSHIFT_KOKKOS_SOURCE: ${named} is not a Kokkos source tree (no core/src/Kokkos_Core.hpp)")
  endif()
  nightshift_build_kokkos(${named} ${CMAKE_BINARY_DIR}/_deps/kokkos-install)   # every time: its owner may edit it
  set(kokkos_dir ${CMAKE_BINARY_DIR}/_deps/kokkos-install/lib/cmake/Kokkos)
else()
  nightshift_installed_kokkos(kokkos_dir kokkos_without_openmp)
  if(NOT kokkos_dir)
    nightshift_cached_kokkos(kokkos_dir)
  endif()
  if(NOT kokkos_dir)
    set(kokkos_dir ${kokkos_without_openmp})
  endif()
endif()
if(NOT kokkos_dir)
  message(FATAL_ERROR "Kokkos was not found and could not be fetched. Load a module or Spack package, or give a source tree "
    "with -DNIGHTSHIFT_KOKKOS_SOURCE=<dir>, or on Debian and Ubuntu: apt-get install libtrilinos-kokkos-dev")
endif()

set(Kokkos_DIR ${kokkos_dir} CACHE PATH "" FORCE)
find_package(Kokkos CONFIG REQUIRED)
if(Kokkos_VERSION VERSION_LESS 4 AND Kokkos_INCLUDE_DIRS)   # the target in Debian's trilinos build names a path that is not there
  set_target_properties(Kokkos::kokkos PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${Kokkos_INCLUDE_DIRS}"
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${Kokkos_INCLUDE_DIRS}")
endif()
message(STATUS "Kokkos: ${Kokkos_VERSION} in ${Kokkos_DIR}; backends ${Kokkos_DEVICES}")
