# SPDX-License-Identifier: Apache-2.0
# Libraries that ship pkg-config files rather than CMake ones.
find_package(PkgConfig REQUIRED)

function(nightshift_pkg target module)
  if(TARGET ${target})
    return()
  endif()
  string(MAKE_C_IDENTIFIER ${module} id)
  pkg_check_modules(${id} REQUIRED IMPORTED_TARGET GLOBAL ${module})
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_link_libraries(${target} INTERFACE PkgConfig::${id})
endfunction()

nightshift_pkg(PCRE2::pcre2 libpcre2-8)
nightshift_pkg(utf8proc::utf8proc libutf8proc)
nightshift_pkg(xxHash::xxhash libxxhash)
