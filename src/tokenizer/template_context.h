// SPDX-License-Identifier: Apache-2.0
// Chat templates are programs out of a model directory. This context keeps one that never ends, or whose
// macros call themselves for ever, from taking the rank with it: it counts what a template looks up, watches
// the stack, and has a range() that checks its arguments. Arithmetic and the growth of texts are
// template_guards.h's.
#pragma once

#include <cstdint>
#include <memory>
#include <minja/minja.hpp>
#include <string_view>

namespace nightshift::tokenizer {

// The variables of one rendering, above minja's builtins. `input_bytes`: of the messages and arguments; the
// longer they are, the more a template may do. Exceeding a limit is a std::runtime_error, as all errors in
// templates are.
std::shared_ptr<minja::Context> bounded_context(minja::Value variables, std::size_t input_bytes);

// Throws std::runtime_error when the source is longer or its brackets and blocks nest deeper than minja's
// recursive parser and its regular expressions can bear.
void check_template_source(std::string_view source);

}  // namespace nightshift::tokenizer
