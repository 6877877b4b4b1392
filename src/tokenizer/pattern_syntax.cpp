// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pattern_syntax.h"

#include <cctype>

#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

struct Unsupported {};  // thrown inside, never leaves this file

class Parser {
 public:
  explicit Parser(const std::string& regex) : text_(regex) {}

  std::vector<PatternSequence> parse() {
    auto alternatives = parse_alternatives(false);
    if (at_ != text_.size()) throw Unsupported{};  // a ')' too many
    return alternatives;
  }

 private:
  bool done() const { return at_ == text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  bool take(std::string_view token) {
    if (std::string_view(text_).substr(at_).substr(0, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }
  std::uint32_t take_code_point() {
    if (done()) throw Unsupported{};
    const CodePoint c = code_point_at(text_, at_);
    at_ += c.bytes;
    return c.value;
  }

  // Groups and classes are read by recursion; PCRE2, which gets what is refused here, has such a limit too.
  class Level {
   public:
    explicit Level(int& depth) : depth_(depth) {
      if (++depth_ > 100) throw Unsupported{};
    }
    ~Level() { --depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    int& depth_;
  };

  std::vector<PatternSequence> parse_alternatives(bool ignore_case) {
    const Level level(depth_);
    std::vector<PatternSequence> alternatives;
    do alternatives.push_back(parse_sequence(ignore_case));
    while (take("|"));
    return alternatives;
  }

  PatternSequence parse_sequence(bool ignore_case) {
    PatternSequence sequence;
    while (!done() && peek() != '|' && peek() != ')') {
      PatternItem item = parse_atom(ignore_case);
      parse_quantifier(item);
      sequence.push_back(std::move(item));
    }
    return sequence;
  }

  PatternItem parse_atom(bool ignore_case) {
    PatternItem item;
    if (take("(?=") || take("(?!")) {
      item.kind = PatternItem::look_ahead;
      item.negated = text_[at_ - 1] == '!';
      return parse_group_body(std::move(item), ignore_case);
    }
    if (take("(?i:")) return parse_group_body(group(), true);
    if (take("(?:")) return parse_group_body(group(), ignore_case);
    if (take("(?") || take("(*")) throw Unsupported{};
    if (take("(")) return parse_group_body(group(), ignore_case);
    if (take("[")) {
      item.characters = parse_class(ignore_case);
    } else if (take("\\")) {
      parse_escape(item.characters, ignore_case);
    } else if (take(".")) {
      item.characters.add('\n');
      item.characters.invert();
    } else if (std::string_view("^$*+?{}").find(peek()) != std::string_view::npos) {
      throw Unsupported{};
    } else {
      add_literal(item.characters, take_code_point(), ignore_case);
    }
    return item;
  }

  static PatternItem group() {
    PatternItem item;
    item.kind = PatternItem::group;
    return item;
  }

  PatternItem parse_group_body(PatternItem item, bool ignore_case) {
    item.alternatives = parse_alternatives(ignore_case);
    if (!take(")")) throw Unsupported{};
    return item;
  }

  void parse_quantifier(PatternItem& item) {
    const bool interval = peek() == '{';
    if (take("?")) {
      item.min = 0;
    } else if (take("*")) {
      item.min = 0, item.max = kUnbounded;
    } else if (take("+")) {
      item.max = kUnbounded;
    } else if (interval) {
      parse_interval(item);
    } else {
      return;
    }
    if (peek() == '?' || peek() == '*') throw Unsupported{};  // lazy; repeat of a repeat
    if (take("+")) {
      // Behind an interval Oniguruma's plus is no possessive mark but a repeat of the repeat.
      if (interval && item.min != 1) throw Unsupported{};
      if (interval) item.max = kUnbounded;
      item.possessive = !interval;
    }
    if (std::string_view("?*+{").find(peek()) != std::string_view::npos && !done()) throw Unsupported{};
    const bool plain = item.min == 1 && item.max == 1;
    const bool optional = item.kind == PatternItem::group && item.max == 1 && !item.possessive;
    if (item.kind != PatternItem::set && !plain && !optional) throw Unsupported{};
  }

  void parse_interval(PatternItem& item) {
    ++at_;
    item.min = parse_number();
    item.max = take(",") ? (peek() == '}' ? kUnbounded : parse_number()) : item.min;
    if (!take("}") || item.max < item.min || item.max == 0) throw Unsupported{};
  }

  std::uint32_t parse_number() {
    if (!std::isdigit(static_cast<unsigned char>(peek()))) throw Unsupported{};
    std::uint32_t value = 0;
    while (std::isdigit(static_cast<unsigned char>(peek())) && value < 100000) {
      value = value * 10 + static_cast<std::uint32_t>(text_[at_++] - '0');
    }
    return value;
  }

  // Behind '['. Nested classes are unions, && intersects all before it with all behind it.
  CodeSet parse_class(bool ignore_case) {
    const Level level(depth_);
    const bool negated = take("^");
    if (peek() == ']') throw Unsupported{};
    std::optional<CodeSet> intersection;
    CodeSet members;
    while (!take("]")) {
      if (take("[:")) throw Unsupported{};
      if (take("&&")) {
        intersect(intersection, members);
        members = CodeSet();
      } else if (take("[")) {
        members.add(parse_class(ignore_case));
      } else {
        parse_class_member(members, ignore_case);
      }
    }
    if (intersection) intersect(intersection, members), members = *intersection;
    if (negated) members.invert();
    return members;
  }

  static void intersect(std::optional<CodeSet>& all, const CodeSet& members) {
    if (all) {
      all->keep(members);
    } else {
      all = members;
    }
  }

  // One character, range or escape inside a class.
  void parse_class_member(CodeSet& members, bool ignore_case) {
    const auto first = parse_class_character(members, ignore_case);
    if (!first) return;  // an escape that stands for a set
    if (peek() != '-' || text_.compare(at_, 2, "-]") == 0) return add_literal(members, *first, ignore_case);
    ++at_;
    if (peek() == '[') throw Unsupported{};
    const auto last = parse_class_character(members, ignore_case);
    if (!last || *last < *first) throw Unsupported{};
    if (ignore_case) throw Unsupported{};
    members.add(*first, *last + 1);
  }

  std::optional<std::uint32_t> parse_class_character(CodeSet& members, bool ignore_case) {
    if (!take("\\")) return take_code_point();
    if (const auto c = parse_escaped_character()) return c;
    add_escaped_set(members, ignore_case);
    return std::nullopt;
  }

  void parse_escape(CodeSet& characters, bool ignore_case) {
    if (const auto c = parse_escaped_character()) return add_literal(characters, *c, ignore_case);
    add_escaped_set(characters, ignore_case);
  }

  // Behind a backslash: a single character, or nothing if it is the name of a set.
  std::optional<std::uint32_t> parse_escaped_character() {
    const char c = peek();
    if (static_cast<unsigned char>(c) >= 0x80 || !std::isalnum(static_cast<unsigned char>(c)))
      return take_code_point();
    static constexpr std::string_view kNames = "rntfvae", kValues = "\r\n\t\f\v\a\x1b";
    if (const auto i = kNames.find(c); i != std::string_view::npos) {
      ++at_;
      return static_cast<std::uint32_t>(kValues[i]);
    }
    if (take("x{")) return parse_hex(1, 8, "}");
    if (take("x")) {
      const auto value = parse_hex(1, 2, "");
      if (value >= 0x80) throw Unsupported{};  // a raw byte of a longer character
      return value;
    }
    if (take("u")) return parse_hex(4, 4, "");
    return std::nullopt;
  }

  std::uint32_t parse_hex(int least, int most, std::string_view closing) {
    std::uint32_t value = 0;
    int digits = 0;
    for (; digits < most && std::isxdigit(static_cast<unsigned char>(peek())); ++digits) {
      value = value * 16 + static_cast<std::uint32_t>(std::stoi(std::string(1, text_[at_++]), nullptr, 16));
    }
    if (digits < least || !take(closing) || value >= kCodePointEnd) throw Unsupported{};
    return value;
  }

  void add_escaped_set(CodeSet& members, bool ignore_case) {
    const char name = peek();
    ++at_;
    CodeSet set;
    const auto flagged = [&](auto wanted) { set.add_where(wanted); };
    switch (name) {
      case 'p':
      case 'P': {
        if (!take("{")) throw Unsupported{};
        const bool negated = take("^");
        const auto end = text_.find('}', at_);
        if (ignore_case || end == std::string::npos) throw Unsupported{};
        if (!set.add_category(std::string_view(text_).substr(at_, end - at_))) throw Unsupported{};
        at_ = end + 1;
        if (negated) set.invert();
        break;
      }
      case 's':
      case 'S':
        flagged([](std::uint16_t value) { return (value & kWhite) != 0; });
        break;
      case 'd':
      case 'D':
        set.add_category("Nd");
        break;
      case 'w':
      case 'W':
        set.add_word();
        break;
      default:
        throw Unsupported{};
    }
    if (std::isupper(static_cast<unsigned char>(name))) set.invert();
    members.add(set);
  }

  // (?i) adds the other case and the two letters beyond ASCII that fold to s and k.
  static void add_literal(CodeSet& members, std::uint32_t c, bool ignore_case) {
    members.add(c);
    if (!ignore_case) return;
    if (c >= 0x80) throw Unsupported{};
    const int lower = std::tolower(static_cast<int>(c));
    members.add(static_cast<std::uint32_t>(lower));
    members.add(static_cast<std::uint32_t>(std::toupper(lower)));
    if (lower == 's') members.add(0x17F);
    if (lower == 'k') members.add(0x212A);
  }

  const std::string& text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::optional<std::vector<PatternSequence>> parse_pattern(const std::string& regex) {
  try {
    return Parser(regex).parse();
  } catch (const Unsupported&) {
    return std::nullopt;
  }
}

}  // namespace nightshift::tokenizer
