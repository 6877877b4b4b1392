// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/check.h"
#include "tokenizer/pattern.h"
#include "tokenizer/pcre2_syntax.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

PCRE2_SPTR units(std::string_view text) {
  return reinterpret_cast<PCRE2_SPTR>(text.data());
}

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// What a thread needs to match, shared by all patterns: a 64 MiB ceiling for the JIT's stack, one pair of
// offsets.
class Matcher {
 public:
  Matcher()
      : data(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(32 << 10, 64 << 20, nullptr)) {
    NS_CHECK(data && context_ && stack_, "PCRE2 got no memory");
    pcre2_jit_stack_assign(context_, nullptr, stack_);
  }
  ~Matcher() {
    pcre2_jit_stack_free(stack_);
    pcre2_match_context_free(context_);
    pcre2_match_data_free(data);
  }
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;

  // The texts are known to be UTF-8; checking them again for every match would make long texts quadratic.
  int match(const pcre2_code* code, std::string_view text, std::size_t from, std::uint32_t options) {
    options |= PCRE2_NO_UTF_CHECK;
    const int found = pcre2_match(code, units(text), text.size(), from, options, data, context_);
    if (found != PCRE2_ERROR_JIT_STACKLIMIT) return found;
    return pcre2_match(code, units(text), text.size(), from, options | PCRE2_NO_JIT, data,
                       context_);  // on the heap
  }
  Span found() const {
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data);
    return {offsets[0], offsets[1]};
  }

  static Matcher& of_this_thread() {
    thread_local Matcher matcher;
    return matcher;
  }

  pcre2_match_data* data;

 private:
  pcre2_match_context* context_;
  pcre2_jit_stack* stack_;
};

class Code {
 public:
  Code(const std::string& regex, const std::string& shown) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    auto* context = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    code_ = pcre2_compile(units(regex), regex.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error,
                          &offset, context);
    pcre2_compile_context_free(context);
    if (code_ == nullptr) {
      throw BadInput(
          fmt::format("tokenizer.json: the pattern {} is not supported: {}", shown, message_of(error)),
          "give token ids as input (prompts/tokens), or ask for support of this pattern");
    }
    pcre2_jit_compile(code_,
                      PCRE2_JIT_COMPLETE);  // where there is no JIT, matching is slower and otherwise equal
  }
  ~Code() { pcre2_code_free(code_); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  const pcre2_code* get() const { return code_; }

 private:
  pcre2_code* code_;
};

// PCRE2's character tables are those of the Unicode version that it was built with. Characters that it sees
// otherwise than unicode.h does are given to it as others of the right category and the same length in bytes.
class StandIns {
 public:
  StandIns() {
    std::array<std::array<std::uint32_t, 5>, std::size(kCategoryNames)> agreed{};  // by category and length
    std::vector<std::uint32_t> differing;
    for_each_run([&](std::uint32_t first, std::uint32_t end, std::uint16_t value) {
      compare_run(first, end, value & kCategoryBits, agreed, differing);
    });
    for (const std::uint32_t c : differing) {
      const auto stand_in = agreed[properties(c) & kCategoryBits][length_of(c)];
      if (stand_in != 0) replacement_[c] = stand_in;
    }
    replacement_[0x180E] = 0x200B;  // counts as white space in PCRE2 only
  }

  // Whether anything had to be replaced; byte offsets stay the same.
  bool rewrite(std::string_view text, std::string& out) const {
    bool changed = false;
    for (std::size_t at = 0; at < text.size();) {
      const CodePoint c = code_point_at(text, at);
      if (const auto it = c.value < 0x80 ? replacement_.end() : replacement_.find(c.value);
          it != replacement_.end()) {
        if (!std::exchange(changed, true)) out = text;
        std::string bytes;
        append_utf8(bytes, it->second);
        out.replace(at, c.bytes, bytes);
      }
      at += c.bytes;
    }
    return changed;
  }

  static const StandIns& get() {
    static const StandIns table;
    return table;
  }

 private:
  static std::size_t length_of(std::uint32_t c) { return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4; }

  // Lets PCRE2 match the whole run as its category, and notes the characters where it stops.
  static void compare_run(std::uint32_t first, std::uint32_t end, int category, auto& agreed,
                          std::vector<std::uint32_t>& differing) {
    static std::array<std::unique_ptr<Code>, std::size(kCategoryNames)> codes;
    auto& code = codes[static_cast<std::size_t>(category)];
    const std::string regex = fmt::format("\\p{{{}}}*+", kCategoryNames[category]);
    if (!code) code = std::make_unique<Code>(regex, regex);
    std::string text;
    for (std::uint32_t c = first; c < end; ++c) {
      if (c < 0xD800 || c > 0xDFFF) append_utf8(text, c);
    }
    for (std::size_t at = 0; at < text.size();) {
      Matcher& matcher = Matcher::of_this_thread();
      const int found = matcher.match(code->get(), text, at, PCRE2_ANCHORED);
      NS_CHECK(found >= 0, "PCRE2: {}", message_of(found));
      const Span span = matcher.found();
      if (span.end > span.begin) {
        const auto c = code_point_at(text, span.begin).value;
        agreed[static_cast<std::size_t>(category)][length_of(c)] = c;
      }
      if (span.end == text.size()) break;
      const CodePoint other = code_point_at(text, span.end);
      differing.push_back(other.value);
      at = span.end + other.bytes;
    }
  }

  std::unordered_map<std::uint32_t, std::uint32_t> replacement_;
};

class Pcre2Pattern final : public Pattern {
 public:
  explicit Pcre2Pattern(const std::string& regex) : regex_(regex), code_(oniguruma_to_pcre2(regex), regex) {
    StandIns::get();
  }

  bool search(std::string_view text, std::size_t from, Span& match) const override {
    Matcher& matcher = Matcher::of_this_thread();
    const int found = matcher.match(code_.get(), text, from, 0);
    if (found == PCRE2_ERROR_NOMATCH) return false;
    if (found < 0) {
      throw BadInput(
          fmt::format("the tokenizer's pattern {} fails on this text: {}", regex_, message_of(found)));
    }
    match = matcher.found();
    return true;
  }

  bool rewrite(std::string_view text, std::string& out) const override {
    return StandIns::get().rewrite(text, out);
  }

 private:
  std::string regex_;
  Code code_;
};

}  // namespace

std::unique_ptr<Pattern> compile_pcre2_pattern(const std::string& regex) {
  return std::make_unique<Pcre2Pattern>(regex);
}

}  // namespace nightshift::tokenizer
