// SPDX-License-Identifier: Apache-2.0
// Reading tokenizer.json with messages that name the field.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "core/check.h"

namespace nightshift::tokenizer {

using Json = nlohmann::json;

// The member, or null when it is missing or null.
inline const Json* find_field(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

template <class Value>
Value field(const Json& object, const char* key) {
  const Json* member = find_field(object, key);
  if (member == nullptr) {
    throw BadInput(fmt::format("tokenizer.json: \"{}\" is missing in {:.120}", key, object.dump()));
  }
  try {
    return member->get<Value>();
  } catch (const Json::exception& e) {
    throw BadInput(fmt::format("tokenizer.json: \"{}\" has the wrong type in {:.120}: {}", key, object.dump(),
                               e.what()));
  }
}

template <class Value>
Value field_or(const Json& object, const char* key, Value fallback) {
  return find_field(object, key) ? field<Value>(object, key) : fallback;
}

[[noreturn]] inline void refuse(const char* what, const std::string& name) {
  throw BadInput(fmt::format("tokenizer.json: {} \"{}\" is not supported", what, name),
                 "tokenize the prompts elsewhere and give token ids as input (prompts/tokens), or ask for "
                 "support of it");
}

// Steps that lengthen a text multiply: forty doublings would make a prompt of one byte fill the memory. Real
// pipelines stay below 60 (NFKC, and a space that becomes three bytes).
class Growth {
 public:
  explicit Growth(const char* what) : what_(what) {}

  // A step makes at most `factor` bytes of each byte.
  void add(std::size_t factor) {
    constexpr std::size_t kMostGrowth = 1024, kMostSteps = 64;
    if (factor > 0) growth_ *= std::min(factor, kMostGrowth + 1);
    if (growth_ <= kMostGrowth && ++steps_ <= kMostSteps) return;
    throw BadInput(
        fmt::format("tokenizer.json: the {} has more than {} steps, or makes more than {} bytes of one",
                    what_, kMostSteps, kMostGrowth),
        "fetch the file again");
  }

 private:
  const char* what_;
  std::size_t growth_ = 1, steps_ = 0;
};

// The members of a Sequence, nested ones in place, or the one node itself; nothing for null.
inline void flatten(const Json* node, const char* members, std::vector<const Json*>& out) {
  if (node == nullptr || node->is_null()) return;
  if (field<std::string>(*node, "type") != "Sequence") {
    out.push_back(node);
    return;
  }
  const Json* list = find_field(*node, members);
  if (list == nullptr || !list->is_array())
    throw BadInput(fmt::format("tokenizer.json: Sequence without \"{}\"", members));
  for (const Json& member : *list) flatten(&member, members, out);
}

}  // namespace nightshift::tokenizer
