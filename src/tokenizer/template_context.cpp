// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/template_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <vector>

#include "tokenizer/template_guards.h"

namespace nightshift::tokenizer {
namespace {

constexpr std::size_t kMostSourceBytes = 256u << 10;  // published templates have at most some 30 KiB
constexpr std::size_t kLongestComment = 8u << 10;     // std::regex recurses once per byte of it
constexpr int kDeepest = 64;                          // brackets, or blocks
constexpr std::size_t kMostStack = 2u << 20;
constexpr std::size_t kMostText = 256u << 20;  // of all texts together that one rendering makes
constexpr std::uint64_t kLookups = 500'000;    // a template makes some 30 per message

[[noreturn]] void stop(const std::string& why) {
  throw std::runtime_error(why);
}

std::uintptr_t stack_position() {
  return reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
}

// Every use of a variable that is not local to a loop or macro ends here, calls of macros included.
class BoundedContext final : public minja::Context {
 public:
  BoundedContext(minja::Value variables, std::uint64_t budget)
      : Context(std::move(variables), builtins()), budget_(budget), stack_(stack_position()) {}

  bool contains(const minja::Value& key) override {
    const std::uintptr_t here = stack_position();
    if ((here < stack_ ? stack_ - here : here - stack_) > kMostStack)
      stop("macros call themselves too deeply");
    spend(1);
    return Context::contains(key);
  }

  void spend(std::uint64_t steps) {
    if (steps > budget_) stop("the template does not come to an end");
    budget_ -= steps;
  }

 private:
  std::uint64_t budget_;
  const std::uintptr_t stack_;
};

// Python's range(end), range(start, end), range(start, end, step).
minja::Value make_range(minja::ArgumentsValue& arguments, BoundedContext& context) {
  arguments.expectArgs("range", {1, 3}, {0, 0});
  std::vector<std::int64_t> given;
  for (const minja::Value& argument : arguments.args) given.push_back(argument.get<std::int64_t>());
  const std::int64_t start = given.size() > 1 ? given[0] : 0;
  const std::int64_t end = given.size() > 1 ? given[1] : given[0];
  const std::int64_t step = given.size() > 2 ? given[2] : 1;
  if (step == 0) stop("range() with a step of 0");
  const bool runs = step > 0 ? start < end : start > end;
  const auto distance = static_cast<std::uint64_t>(end) - static_cast<std::uint64_t>(start);
  const std::uint64_t stride =
      step > 0 ? static_cast<std::uint64_t>(step) : 0 - static_cast<std::uint64_t>(step);
  const std::uint64_t count = !runs ? 0 : ((step > 0 ? distance : 0 - distance) - 1) / stride + 1;
  context.spend(count);
  auto list = minja::Value::array();
  auto value = static_cast<std::uint64_t>(start);
  for (std::uint64_t i = 0; i < count; ++i, value += static_cast<std::uint64_t>(step))
    list.push_back(minja::Value(static_cast<std::int64_t>(value)));
  return list;
}

// +1 for a tag that opens a block, -1 for one that closes it, 0 for others. `tag` begins with "{%".
int nesting_of(std::string_view tag) {
  constexpr std::array<std::string_view, 7> kOpen{"if",   "for",   "macro",     "filter",
                                                  "call", "block", "generation"};
  tag = tag.substr(0, tag.find("%}"));
  tag.remove_prefix(std::min(tag.find_first_not_of("{%-~ \t\r\n"), tag.size()));
  const std::string_view word = tag.substr(0, tag.find_first_of(" \t\r\n-("));
  if (word.starts_with("end")) return -1;
  if (word == "set") return tag.find('=') == std::string_view::npos ? 1 : 0;
  return std::find(kOpen.begin(), kOpen.end(), word) != kOpen.end() ? 1 : 0;
}

}  // namespace

std::shared_ptr<minja::Context> bounded_context(minja::Value variables, std::size_t input_bytes) {
  template_guards::allow(kMostText + 256 * input_bytes);
  auto context = std::make_shared<BoundedContext>(std::move(variables), kLookups + 4 * input_bytes);
  BoundedContext* raw = context.get();  // the callable lives in the context's own variables
  context->set("range", minja::Value::callable([raw](const auto&, minja::ArgumentsValue& arguments) {
                 return make_range(arguments, *raw);
               }));
  return context;
}

void check_template_source(std::string_view source) {
  if (source.size() > kMostSourceBytes) stop(fmt::format("more than {} bytes", kMostSourceBytes));
  int brackets = 0, blocks = 0;
  for (std::size_t at = 0; at < source.size(); ++at) {
    const std::string_view rest = source.substr(at);
    if (rest.starts_with("{#")) {
      const std::size_t end = rest.find("#}");
      if (std::min(end, rest.size()) > kLongestComment)
        stop(fmt::format("a comment of more than {} bytes", kLongestComment));
      at += std::min(end, rest.size() - 1);
      continue;
    }
    if (rest.starts_with("{%")) {
      blocks = std::max(blocks + nesting_of(rest), 0);
      brackets = 0;
      if (blocks > kDeepest) stop(fmt::format("blocks nest deeper than {} levels", kDeepest));
    }
    const char c = source[at];
    if (c == '(' || c == '[' || c == '{') ++brackets;
    if (c == ')' || c == ']' || c == '}') brackets = std::max(brackets - 1, 0);
    if (brackets > kDeepest) stop(fmt::format("brackets nest deeper than {} levels", kDeepest));
  }
}

}  // namespace nightshift::tokenizer
