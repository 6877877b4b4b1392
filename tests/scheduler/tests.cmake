# SPDX-License-Identifier: Apache-2.0
add_test(NAME scheduler COMMAND scheduler_test)
set_tests_properties(scheduler PROPERTIES LABELS unit)
if(Python3_FOUND)
  add_test(NAME scheduler_reference COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/sarathi_reference.py
                                            --check ${CMAKE_CURRENT_LIST_DIR}/plans.golden)
  set_tests_properties(scheduler_reference PROPERTIES LABELS unit)
endif()
