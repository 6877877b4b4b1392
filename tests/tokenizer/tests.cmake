# SPDX-License-Identifier: Apache-2.0
add_test(NAME tokenizer COMMAND tokenizer_test)
set_tests_properties(tokenizer PROPERTIES LABELS unit)

# What compare_hf.py and tests/bench/tokenizer_vs_hf.py talk to.
add_executable(tokenizer_tool ${CMAKE_SOURCE_DIR}/tests/tokenizer/tool/tokenizer_tool.cpp)
target_link_libraries(tokenizer_tool PRIVATE nightshift_flags nightshift_tokenizer nlohmann_json::nlohmann_json)
