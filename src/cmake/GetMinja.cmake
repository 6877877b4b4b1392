# SPDX-License-Identifier: Apache-2.0
# minja::minja, the chat template engine (header-only): a tree that the user names, an installed one, the cache, the pinned
# upstream revision, or the same two headers out of a source archive that pip can fetch.
# Rendered prompts depend on this code, so a fetched copy is exactly the pinned one whichever way it came.
include(Dependencies)

set(NIGHTSHIFT_MINJA_SOURCE "" CACHE PATH "minja source tree to use (the folder above include/minja)")
set(revision 911b645ba3bd4bccc63a38bba50ac9bd8dfc147d)   # 2025-11-02
set(minja_sha256 da9157da8d1a48404af4f2111ba30351cb4ceae65c4e62b46e065a762acc7ccc)
set(chat_template_sha256 2e3aa33245ae240ab2f02eed6fb64f0981523c3c7a36510394e884f752e0d716)
set(chat_template_trimmed_sha256 b0739820b720e751305d71a3aaac12ae41fba838c9e3997cf3282de04c3d7ece)   # less one line's trailing blanks
set(NIGHTSHIFT_MINJA_URL https://github.com/ochafik/minja/archive/${revision}.tar.gz
  CACHE STRING "where minja is downloaded from")
mark_as_advanced(NIGHTSHIFT_MINJA_URL)

function(nightshift_minja_ready out include)
  nightshift_verify(a ${include}/minja/minja.hpp ${minja_sha256})
  nightshift_verify(b ${include}/minja/chat-template.hpp ${chat_template_sha256})
  nightshift_verify(c ${include}/minja/chat-template.hpp ${chat_template_trimmed_sha256})
  set(${out} FALSE PARENT_SCOPE)
  if(a AND (b OR c))
    set(${out} TRUE PARENT_SCOPE)
  endif()
endfunction()

# Fills <cache>/include/minja from upstream, else from pip.
function(nightshift_fetch_minja cache)
  set(work ${CMAKE_BINARY_DIR}/_deps/minja)
  file(MAKE_DIRECTORY ${work})
  message(STATUS "minja: fetching the pinned headers")
  nightshift_download(fetched ${NIGHTSHIFT_MINJA_URL}
    58e4627710bdfd601ffe534c8801d2552feb7a981879a864557382b40f99e9d2 ${work}/minja.tar.gz)
  if(fetched)
    set(archive ${work}/minja.tar.gz)
  else()
    nightshift_sdist(fetched xllamacpp 0.2.7 d4349e69666d5e0f783e065ec0346ca3de35bb38d425a31f2600674d34d21666 ${work})
    set(archive ${work}/xllamacpp-0.2.7.tar.gz)
  endif()
  if(fetched)
    file(ARCHIVE_EXTRACT INPUT ${archive} DESTINATION ${work}/tree PATTERNS "*/minja/minja.hpp" "*/minja/chat-template.hpp")
    file(GLOB_RECURSE headers ${work}/tree/*.hpp)
    file(COPY ${headers} DESTINATION ${cache}/include/minja)
  endif()
  file(REMOVE_RECURSE ${work})
endfunction()

if(NIGHTSHIFT_MINJA_SOURCE OR FETCHCONTENT_SOURCE_DIR_MINJA)
  find_path(NIGHTSHIFT_MINJA_INCLUDE minja/chat-template.hpp NO_DEFAULT_PATH
    PATHS ${NIGHTSHIFT_MINJA_SOURCE} ${FETCHCONTENT_SOURCE_DIR_MINJA} PATH_SUFFIXES include REQUIRED)
else()
  find_path(NIGHTSHIFT_MINJA_INCLUDE minja/chat-template.hpp)
endif()
mark_as_advanced(NIGHTSHIFT_MINJA_INCLUDE)

set(include ${NIGHTSHIFT_MINJA_INCLUDE})
if(NOT include)
  nightshift_cache(cache minja-911b645)
  set(include ${cache}/include)
  file(LOCK ${cache}/lock GUARD FILE TIMEOUT 600)
  nightshift_minja_ready(ready ${include})
  if(NOT ready)
    nightshift_fetch_minja(${cache})
    nightshift_minja_ready(ready ${include})
  endif()
  file(LOCK ${cache}/lock RELEASE)
  if(NOT ready)
    message(FATAL_ERROR "minja was not found and could not be fetched. Give a source tree (revision ${revision}) with "
      "-DNIGHTSHIFT_MINJA_SOURCE=<dir>, or let pip reach a package index (Debian: apt-get install python3-pip).")
  endif()
endif()
message(STATUS "minja: ${include}")

# minja does not check arithmetic and sizes: a template that divides by zero, or doubles a text forty times, would take the
# process with it. A copy in the build folder sends those places through src/tokenizer/template_guards.h.
function(nightshift_edit variable before after)
  string(FIND "${${variable}}" "${before}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "minja has changed, it has no '${before}': the guards for templates need another look")
  endif()
  string(REPLACE "${before}" "${after}" text "${${variable}}")
  set(${variable} "${text}" PARENT_SCOPE)
endfunction()

function(nightshift_guard_minja source target)
  file(READ ${source} text)
  nightshift_edit(text [=[return -get<int64_t>()]=]
    [=[return template_guards::negative(get<int64_t>())]=])
  nightshift_edit(text [=[return get<int64_t>() + rhs.get<int64_t>()]=]
    [=[return template_guards::sum(get<int64_t>(), rhs.get<int64_t>())]=])
  nightshift_edit(text [=[return get<int64_t>() - rhs.get<int64_t>()]=]
    [=[return template_guards::difference(get<int64_t>(), rhs.get<int64_t>())]=])
  nightshift_edit(text [=[return get<int64_t>() * rhs.get<int64_t>()]=]
    [=[return template_guards::product(get<int64_t>(), rhs.get<int64_t>())]=])
  nightshift_edit(text [=[return get<int64_t>() / rhs.get<int64_t>()]=]
    [=[return template_guards::quotient(get<int64_t>(), rhs.get<int64_t>())]=])
  nightshift_edit(text [=[return get<int64_t>() % rhs.get<int64_t>()]=]
    [=[return template_guards::remainder(get<int64_t>(), rhs.get<int64_t>())]=])
  nightshift_edit(text [=[return l.get<int64_t>() / r.get<int64_t>()]=]
    [=[return template_guards::quotient(l.get<int64_t>(), r.get<int64_t>())]=])
  nightshift_edit(text [=[return l.get<int64_t>() % r.get<int64_t>()]=]
    [=[return template_guards::remainder(l.get<int64_t>(), r.get<int64_t>())]=])
  nightshift_edit(text [=[return to_str() + rhs.to_str()]=]
    [=[return template_guards::joined(to_str(), rhs.to_str())]=])
  nightshift_edit(text [=[return l.to_str() + r.to_str()]=]
    [=[return template_guards::joined(l.to_str(), r.to_str())]=])
  nightshift_edit(text [=[int64_t i = 0, n = rhs.get<int64_t>();]=]
    [=[int64_t i = 0, n = template_guards::repeated(to_str().size(), rhs.get<int64_t>());]=])
  nightshift_edit(text [=[for (const auto& item : *rhs.array_)]=]
    [=[template_guards::made(sizeof(Value) * (res.size() + rhs.array_->size()));
        for (const auto& item : *rhs.array_)]=])
  nightshift_edit(text [=[str.replace(start_pos, before.length(), after);]=]
    [=[template_guards::made(str.size() + after.size());
              str.replace(start_pos, before.length(), after);]=])
  nightshift_edit(text [=[else oss << sep;]=]
    [=[else template_guards::made(sep.size()), oss << sep;]=])
  nightshift_edit(text [=[std::string indent(args.get<int64_t>("indent", 0), ' ');]=]
    [=[std::string indent(template_guards::repeated(1, args.get<int64_t>("indent", 0)), ' ');]=])
  nightshift_edit(text [=[if (needs_indent) out += indent;]=]
    [=[if (needs_indent) template_guards::made(indent.size()), out += indent;]=])
  file(GENERATE OUTPUT ${target} CONTENT "#include \"tokenizer/template_guards.h\"\n${text}")
endfunction()
set(guarded ${CMAKE_BINARY_DIR}/minja)
nightshift_guard_minja(${include}/minja/minja.hpp ${guarded}/minja/minja.hpp)
configure_file(${include}/minja/chat-template.hpp ${guarded}/minja/chat-template.hpp COPYONLY)

find_package(nlohmann_json 3.10 REQUIRED)
add_library(minja::minja INTERFACE IMPORTED GLOBAL)
target_include_directories(minja::minja SYSTEM INTERFACE ${guarded})
target_link_libraries(minja::minja INTERFACE nlohmann_json::nlohmann_json)
