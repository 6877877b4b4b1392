// SPDX-License-Identifier: Apache-2.0
// Words for a POSIX shell.
#pragma once

#include <string>

namespace nightshift::runtime {

// A shell reads it as one word, and as this one: unchanged where no character is special, else in single
// quotes.
std::string shell_quoted(const std::string& word);

}  // namespace nightshift::runtime
