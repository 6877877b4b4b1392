# SPDX-License-Identifier: Apache-2.0
# Fails when an object avx512_*.o of LIBRARY defines a weak or unique symbol: an inline function or template compiled with
# AVX-512 flags, which could become the one copy that CPUs without them run too.
execute_process(COMMAND ${NM} -C --defined-only ${LIBRARY} OUTPUT_VARIABLE listing RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${NM} could not read ${LIBRARY}")
endif()
string(REPLACE "\n" ";" lines "${listing}")
set(member "")
set(seen FALSE)
foreach(line IN LISTS lines)
  if(line MATCHES "^([^ ]+\\.o):$")
    set(member ${CMAKE_MATCH_1})
  elseif(member MATCHES "^avx512_" AND line MATCHES "^[0-9a-f]+ [A-Z] ")
    set(seen TRUE)   # such objects are there and define something
  endif()
  if(member MATCHES "^avx512_" AND line MATCHES "^[0-9a-f]+ [WVu] (.*)$")
    message(SEND_ERROR "${member} defines the shared symbol ${CMAKE_MATCH_1}")
  endif()
endforeach()
if(NOT seen)
  message(STATUS "no AVX-512 objects in this build")
endif()
