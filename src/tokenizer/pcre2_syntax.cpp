// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pcre2_syntax.h"

#include <cctype>
#include <vector>

#include "core/check.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

// Oniguruma's \w, as CodeSet::add_word has it.
constexpr std::string_view kWordMembers =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\xb2\xb3\xb9\xbc-\xbe\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

class Translator {
 public:
  explicit Translator(const std::string& regex) : in_(regex) {}

  std::string translate() {
    while (at_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view construct) const {
    throw BadInput(
        fmt::format("tokenizer.json: the pattern {} uses {}, which is not supported", in_, construct),
        "give token ids as input (prompts/tokens), or ask for support of this pattern");
  }
  bool sees(std::string_view token) const { return in_.compare(at_, token.size(), token) == 0; }
  void copy(std::size_t bytes) {
    out_.append(in_, at_, bytes);
    at_ += bytes;
  }
  // Every atom notes where it begins in the output, for repeats that have to be wrapped.
  void begin_atom() { atom_ = out_.size(); }

  void step() {
    const char c = in_[at_];
    if (c == '\\') {
      begin_atom();
      escape(false);
    } else if (c == '[') {
      begin_atom();
      character_class();
    } else if (c == '(') {
      open_group();
    } else if (c == ')') {
      atom_ = groups_.empty() ? 0 : groups_.back();
      if (!groups_.empty()) groups_.pop_back();
      copy(1);
    } else if (c == '{') {
      interval();
    } else if (c == '$') {  // before a line feed, or at the end of a text that does not end in one
      begin_atom();
      out_ += R"((?:(?=\n)|(?<!\n)\z))";
      ++at_;
    } else if (c == '?' || c == '*' || c == '+' || c == '|') {
      copy(1);
    } else {
      begin_atom();
      copy(code_point_at(in_, at_).bytes);
    }
  }

  void escape(bool in_class) {
    if (at_ + 1 == in_.size()) refuse("a backslash at its end");
    const char name = in_[at_ + 1];
    const auto replace = [&](std::string_view text) {
      out_ += text;
      at_ += 2;
    };
    const auto members = [&](std::string_view text) {  // a set, inside or outside a class
      replace(in_class ? std::string(text) : fmt::format("[{}]", text));
    };
    const std::string word = fmt::format("[{}]", kWordMembers);
    if (name == 'w') return members(kWordMembers);
    if (name == 'h') return members("0-9a-fA-F");
    if (name == 'v') return replace(R"(\x0b)");
    if (name == 'W' && !in_class) return replace(fmt::format("[^{}]", kWordMembers));
    if (name == 'H' && !in_class) return replace("[^0-9a-fA-F]");
    if (name == 'b' && !in_class) return replace(fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word));
    if (name == 'B' && !in_class) return replace(fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word));
    if (name == 'u') {
      out_ += fmt::format("\\x{{{}}}", in_.substr(at_ + 2, 4));
      at_ += 6;
      return;
    }
    if (name == 'p' || name == 'P') {
      const auto end = in_.find('}', at_);
      if (end == std::string::npos) refuse("\\p without braces");
      return copy(end + 1 - at_);
    }
    constexpr std::string_view kSame = "sSdDnrtfaexAzZ";  // \s needs care about U+180E: see StandIns
    const bool letter = std::isalpha(static_cast<unsigned char>(name));
    if (letter && kSame.find(name) == std::string_view::npos) refuse(fmt::format("\\{}", name));
    copy(1 + code_point_at(in_, at_ + 1).bytes);
  }

  void character_class() {
    copy(sees("[^") ? 2 : 1);
    if (sees("]")) refuse("a ']' at the beginning of a class");
    while (!sees("]")) {
      if (at_ == in_.size()) refuse("an unclosed class");
      if (sees("&&")) refuse("&& in a class");
      if (sees("[")) refuse("a class inside a class");
      if (sees("\\")) {
        escape(true);
      } else {
        copy(code_point_at(in_, at_).bytes);
      }
    }
    copy(1);
  }

  void open_group() {
    groups_.push_back(out_.size());
    if (sees("(*")) refuse("(*");
    if (sees("(?~")) refuse("the absence operator");
    std::size_t options = at_ + 2;
    if (!sees("(?")) return copy(1);
    while (options < in_.size() && std::string_view("imx-").find(in_[options]) != std::string_view::npos)
      ++options;
    if (options > at_ + 2) {
      const std::string names = in_.substr(at_ + 2, options - at_ - 2);
      if (in_.compare(options, 1, ":") != 0) refuse(fmt::format("(?{}) without a colon", names));
      if (names != "i" && names != "-i") refuse(fmt::format("(?{}:", names));
    }
    copy(2);
  }

  // {n,m}: a plus behind it repeats the repeat instead of making it possessive; a question mark makes {n}
  // optional.
  void interval() {
    const auto end = in_.find('}', at_);
    const bool counts = end != std::string::npos && end > at_ + 1 &&
                        in_.find_first_not_of("0123456789,", at_ + 1) == end && in_[at_ + 1] != '}';
    if (!counts) refuse("a '{' that begins no repeat");
    std::string text = in_.substr(at_, end + 1 - at_);
    if (text.starts_with("{,")) text.insert(1, "0");
    at_ = end + 1;
    out_ += text;
    if (sees("?") && text.find(',') == std::string::npos) refuse("{n}?");
    if (sees("+")) {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
  }

  const std::string& in_;
  std::string out_;
  std::size_t at_ = 0;
  std::size_t atom_ = 0;
  std::vector<std::size_t> groups_;  // where the open groups begin in the output
};

}  // namespace

std::string oniguruma_to_pcre2(const std::string& regex) {
  return Translator(regex).translate();
}

}  // namespace nightshift::tokenizer
