// SPDX-License-Identifier: Apache-2.0
// The post-processors of tokenizer.json, as far as one sequence goes: ids to put before and behind it.
#pragma once

#include <vector>

#include "core/types.h"
#include "tokenizer/json_fields.h"

namespace nightshift::tokenizer {

struct PostProcessor {
  explicit PostProcessor(const Json* node);  // tokenizer.json's "post_processor"; null for none

  std::vector<TokenId> before;
  std::vector<TokenId> behind;

 private:
  void add_template(const Json& node);
};

}  // namespace nightshift::tokenizer
