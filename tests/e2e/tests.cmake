# SPDX-License-Identifier: Apache-2.0
# End-to-end tests: the real commands on the real tiny model. Python with h5py drives and reads; 77 means it is not there.
function(nightshift_e2e_test name timeout)
  add_test(NAME e2e_${name} COMMAND Python3::Interpreter ${CMAKE_SOURCE_DIR}/tests/e2e/${name}.py ${ARGN})
  set_tests_properties(e2e_${name} PROPERTIES LABELS slow TIMEOUT ${timeout} SKIP_RETURN_CODE 77 RUN_SERIAL TRUE
    ENVIRONMENT "NIGHTSHIFT_BIN=$<TARGET_FILE_DIR:nightshift>")
endfunction()

if(Python3_FOUND AND TARGET nightshift-rank)
  nightshift_e2e_test(geometry 600)
  nightshift_e2e_test(layouts 900)
  nightshift_e2e_test(gpu_groups 600)
  nightshift_e2e_test(trace 120)
  nightshift_e2e_test(bad_rows 120)
  nightshift_e2e_test(retries 600)
  nightshift_e2e_test(disk_faults 600)
  nightshift_e2e_test(resume 300)
  nightshift_e2e_test(checkpoints 600)
  nightshift_e2e_test(hangs_and_kills 600)
  nightshift_e2e_test(restarts 900)
  nightshift_e2e_test(many_prompts 300)
  nightshift_e2e_test(fault_campaign 600 10)
  nightshift_e2e_test(slurm 900)
endif()
