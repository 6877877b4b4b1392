// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/post_processor.h"

namespace nightshift::tokenizer {

PostProcessor::PostProcessor(const Json* node) {
  std::vector<const Json*> steps;
  flatten(node, "processors", steps);
  for (const Json* step : steps) {
    const auto type = field<std::string>(*step, "type");
    if (type == "TemplateProcessing") {
      add_template(*step);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      before.insert(before.begin(), field<std::pair<std::string, TokenId>>(*step, "cls").second);
      behind.push_back(field<std::pair<std::string, TokenId>>(*step, "sep").second);
    } else if (type != "ByteLevel") {  // which only trims offsets
      refuse("a post-processor of type", type);
    }
  }
}

// {"single": [{"SpecialToken": {"id": name}}, {"Sequence": {"id": "A"}}], "special_tokens": {name: {"ids":
// [...]}}}
void PostProcessor::add_template(const Json& node) {
  std::vector<TokenId> first, last;
  bool seen = false;
  const auto special_tokens = field<Json>(node, "special_tokens");
  for (const Json& part : field<Json>(node, "single")) {
    if (find_field(part, "Sequence")) {
      if (std::exchange(seen, true)) refuse("a TemplateProcessing with two Sequences in", "single");
      continue;
    }
    const auto name = field<std::string>(field<Json>(part, "SpecialToken"), "id");
    const auto ids = field<std::vector<TokenId>>(field<Json>(special_tokens, name.c_str()), "ids");
    auto& side = seen ? last : first;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!seen) refuse("a TemplateProcessing without a Sequence in", "single");
  before.insert(before.begin(), first.begin(), first.end());
  behind.insert(behind.end(), last.begin(), last.end());
}

}  // namespace nightshift::tokenizer
