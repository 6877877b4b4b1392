# SPDX-License-Identifier: Apache-2.0
# Getting what a machine lacks: fetched and built once per user, checked against a pinned SHA256, shared by all clones.
# Nothing here knows a particular library; GetKokkos.cmake and GetMinja.cmake do.
include_guard(GLOBAL)
include(ProcessorCount)

option(NIGHTSHIFT_OFFLINE "never try the network for a missing dependency" OFF)

# nightshift_cache(OUT name): <cache>/<name>, where <cache> is $XDG_CACHE_HOME/nightshift, ~/.cache/nightshift, or the build
# folder for a user without a writable home.
function(nightshift_cache out name)
  if(DEFINED ENV{XDG_CACHE_HOME})
    set(root $ENV{XDG_CACHE_HOME}/nightshift)
  elseif(DEFINED ENV{HOME})
    set(root $ENV{HOME}/.cache/nightshift)
  else()
    set(root ${CMAKE_BINARY_DIR}/_deps)
  endif()
  execute_process(COMMAND ${CMAKE_COMMAND} -E make_directory ${root}/${name} RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
  if(failed)
    set(root ${CMAKE_BINARY_DIR}/_deps)
    file(MAKE_DIRECTORY ${root}/${name})
  endif()
  set(${out} ${root}/${name} PARENT_SCOPE)
endfunction()

# nightshift_toolchain_id(OUT extra...): 12 hex digits that change whenever a library built here would differ.
function(nightshift_toolchain_id out)
  cmake_host_system_information(RESULT system QUERY DISTRIB_PRETTY_NAME)
  string(SHA256 hash "${system}|${CMAKE_SYSTEM_PROCESSOR}|${CMAKE_CXX_COMPILER_ID}|${CMAKE_CXX_COMPILER_VERSION}|${ARGN}")
  string(SUBSTRING ${hash} 0 12 hash)
  set(${out} ${hash} PARENT_SCOPE)
endfunction()

# nightshift_verify(OUT file sha256): TRUE if the file exists and is the pinned one.
function(nightshift_verify out file sha256)
  set(${out} FALSE PARENT_SCOPE)
  if(EXISTS ${file})
    file(SHA256 ${file} found)
    if(found STREQUAL sha256)
      set(${out} TRUE PARENT_SCOPE)
    endif()
  endif()
endfunction()

# nightshift_download(OUT url sha256 file): TRUE if the file is there and right afterwards. One byte is asked for first:
# CMake's inactivity limit does not cover connecting, which behind a silent firewall hangs for minutes.
function(nightshift_download out url sha256 file)
  set(${out} FALSE PARENT_SCOPE)
  if(NIGHTSHIFT_OFFLINE OR FETCHCONTENT_FULLY_DISCONNECTED)
    return()
  endif()
  file(DOWNLOAD ${url} ${file}.probe RANGE_START 0 RANGE_END 0 TIMEOUT 5 STATUS status)
  file(SIZE ${file}.probe probed)
  file(REMOVE ${file}.probe)
  if(probed EQUAL 0)
    list(GET status 1 reason)
    message(STATUS "  not reachable: ${url} (${reason})")
    return()
  endif()
  file(DOWNLOAD ${url} ${file} INACTIVITY_TIMEOUT 20 STATUS status)
  nightshift_verify(right ${file} ${sha256})
  if(NOT right)
    message(WARNING "${url} did not arrive as pinned (SHA256 ${sha256}): ${status}; it is not used")
    file(REMOVE ${file})
  endif()
  set(${out} ${right} PARENT_SCOPE)
endfunction()

# nightshift_sdist(OUT package version sha256 folder): TRUE if pip has put the package's source archive into the folder.
# `pip download` asks the package's build backend for metadata; a stand-in answers from the archive's own PKG-INFO, so that
# nothing of the package is built or run and no build tools are fetched. pip checks the hash.
function(nightshift_sdist out package version sha256 folder)
  set(${out} FALSE PARENT_SCOPE)
  find_program(NIGHTSHIFT_PYTHON python3)
  mark_as_advanced(NIGHTSHIFT_PYTHON)
  if(NIGHTSHIFT_OFFLINE OR FETCHCONTENT_FULLY_DISCONNECTED OR NOT NIGHTSHIFT_PYTHON)
    return()
  endif()
  set(stub ${folder}/backend)
  foreach(backend setuptools/build_meta scikit_build_core/build)
    get_filename_component(module ${backend} DIRECTORY)
    file(WRITE ${stub}/${module}/__init__.py "")
    file(WRITE ${stub}/${backend}.py [=[
import email, os, shutil

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    with open("PKG-INFO", encoding="utf-8") as f:
        info = email.message_from_file(f)
    name = "%s-%s.dist-info" % (info["Name"].replace("-", "_"), info["Version"])
    os.makedirs(os.path.join(directory, name), exist_ok=True)
    shutil.copy("PKG-INFO", os.path.join(directory, name, "METADATA"))
    return name
]=])
  endforeach()
  file(WRITE ${folder}/requirements.txt "${package}==${version} --hash=sha256:${sha256}\n")
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env PYTHONPATH=${stub} PIP_REQUIRE_VIRTUALENV=0
      ${NIGHTSHIFT_PYTHON} -m pip --disable-pip-version-check download --quiet --no-deps --no-binary :all:
      --no-build-isolation --no-cache-dir --timeout 10 --retries 1
      -d ${folder} -r ${folder}/requirements.txt
    RESULT_VARIABLE failed OUTPUT_VARIABLE log ERROR_VARIABLE log)
  file(REMOVE_RECURSE ${stub})
  if(failed)
    string(REGEX REPLACE "\n+$" "" log "${log}")
    string(REGEX REPLACE ".*\n" "" log "${log}")
    message(STATUS "  pip could not fetch ${package} ${version}: ${log}")
    return()
  endif()
  set(${out} TRUE PARENT_SCOPE)
endfunction()

# nightshift_run(log what command...): runs a step of a dependency's build; on failure stops with the end of its log.
function(nightshift_run log what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed OUTPUT_FILE ${log} ERROR_FILE ${log})
  if(failed)
    file(READ ${log} text)
    string(LENGTH "${text}" length)
    math(EXPR from "${length} > 3000 ? ${length} - 3000 : 0")
    string(SUBSTRING "${text}" ${from} -1 text)
    message(FATAL_ERROR "${what} failed; the end of ${log}:\n${text}")
  endif()
endfunction()
