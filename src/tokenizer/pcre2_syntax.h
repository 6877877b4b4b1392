// SPDX-License-Identifier: Apache-2.0
// Oniguruma's (Ruby's) pattern syntax in PCRE2's terms.
#pragma once

#include <string>

namespace nightshift::tokenizer {

// For PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE with line feed as the one newline. Throws BadInput naming what
// has no equal: set intersection and nested classes (the scan engine knows them), options in the middle of a
// group, and escapes that only Oniguruma has.
std::string oniguruma_to_pcre2(const std::string& regex);

}  // namespace nightshift::tokenizer
