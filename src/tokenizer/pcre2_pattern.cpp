// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "tokenizer/pattern.h"
namespace nightshift::tokenizer {
std::unique_ptr<Pattern> compile_pcre2_pattern(const std::string& regex) {
  throw BadInput(fmt::format("tokenizer.json: the pattern {} is not supported", regex));
}
}  // namespace nightshift::tokenizer
