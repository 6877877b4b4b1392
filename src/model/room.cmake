# SPDX-License-Identifier: Apache-2.0
# Lets the compiler turn the sampler's selections into vector code. Nobody reads floating-point exception flags, and no
# result changes.
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/sampler.cpp PROPERTIES COMPILE_OPTIONS -fno-trapping-math)
