# SPDX-License-Identifier: Apache-2.0
# The front end as a user meets it: commands, messages, exit codes. No ranks are started here; tests/e2e does that.
if(Python3_FOUND)
  add_test(NAME cli COMMAND Python3::Interpreter ${CMAKE_SOURCE_DIR}/tests/cli/cli_test.py)
  set_tests_properties(cli PROPERTIES LABELS unit TIMEOUT 300 SKIP_RETURN_CODE 77
    ENVIRONMENT "NIGHTSHIFT_BIN=${CMAKE_BINARY_DIR}/bin")
endif()
