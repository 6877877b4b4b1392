// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pre_tokenizer.h"

#include "tokenizer/bpe.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// A fixed string; an empty one matches everywhere, as an empty regular expression does.
class LiteralPattern final : public Pattern {
 public:
  explicit LiteralPattern(std::string literal) : literal_(std::move(literal)) {}
  bool search(std::string_view text, std::size_t from, Span& match) const override {
    const std::size_t at = text.find(literal_, from);
    match = {at, at + literal_.size()};
    return at != std::string_view::npos;
  }

 private:
  std::string literal_;
};

// One character with any of the given property flags.
class FlagPattern final : public Pattern {
 public:
  explicit FlagPattern(std::uint16_t flags) : flags_(flags) {}
  bool search(std::string_view text, std::size_t from, Span& match) const override {
    for (std::size_t at = from; at < text.size();) {
      const CodePoint c = code_point_at(text, at);
      match = {at, at + c.bytes};
      if (properties(c.value) & flags_) return true;
      at = match.end;
    }
    return false;
  }

 private:
  std::uint16_t flags_;
};

// \w+|[^\w\s]+ of the Rust regex crate, whose \w is not Oniguruma's.
class WordPattern final : public Pattern {
 public:
  bool search(std::string_view text, std::size_t from, Span& match) const override {
    std::uint32_t bytes = 0;
    while (from < text.size() && kind(text, from, bytes) == kWhite) from += bytes;
    if (from == text.size()) return false;
    match = {from, from};
    const int wanted = kind(text, from, bytes);
    while (match.end < text.size() && kind(text, match.end, bytes) == wanted) match.end += bytes;
    return true;
  }

 private:
  static int kind(std::string_view text, std::size_t at, std::uint32_t& bytes) {
    const CodePoint c = code_point_at(text, at);
    bytes = c.bytes;
    return properties(c.value) & kWord ? kWord : properties(c.value) & kWhite;
  }
};

SplitBehavior read_behavior(const Json& node, const char* fallback) {
  const auto name = field_or<std::string>(node, "behavior", fallback);
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  refuse("a split behavior named", name);
}

}  // namespace

struct PreTokenizer::Stage {
  enum Kind { pattern_split, metaspace, byte_level } kind = pattern_split;
  std::unique_ptr<Pattern> pattern;  // pattern_split; the other kinds have a stage of their own for splitting
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;
  std::string mark;                               // metaspace: what a space becomes
  enum { never, first, always } prepend = never;  // metaspace
};

// Turns a pattern's matches and the gaps between them into pieces.
class PreTokenizer::Cutter {
 public:
  Cutter(const PreTokenizer& owner, std::size_t next, std::string_view text, bool at_start, PieceSink& sink)
      : owner_(owner), next_(next), text_(text), at_start_(at_start), sink_(sink) {}

  void take(SplitBehavior behavior, Span span, bool is_match) {
    switch (behavior) {
      case SplitBehavior::isolated:
        return emit(span);
      case SplitBehavior::removed:
        return is_match ? void() : emit(span);
      case SplitBehavior::contiguous:
        return join_if(held_ && is_match == last_was_match_, span, is_match);
      case SplitBehavior::merged_with_previous:
        return join_if(held_ && is_match && !last_was_match_, span, is_match);
      case SplitBehavior::merged_with_next:
        return join_if(held_ && !is_match && last_was_match_, span, is_match);
    }
  }
  void finish() {
    if (held_) emit(pending_);
  }

 private:
  void join_if(bool joins, Span span, bool is_match) {
    if (!joins && held_) emit(pending_);
    pending_ = joins ? Span{pending_.begin, span.end} : span;
    held_ = true;
    last_was_match_ = is_match;
  }
  void emit(Span span) {
    if (span.begin == span.end) return;
    owner_.run_stage(next_, text_.substr(span.begin, span.end - span.begin), at_start_ && span.begin == 0,
                     sink_);
  }

  const PreTokenizer& owner_;
  std::size_t next_;
  std::string_view text_;
  bool at_start_;
  PieceSink& sink_;
  Span pending_{};
  bool held_ = false, last_was_match_ = false;
};

PreTokenizer::~PreTokenizer() = default;

PreTokenizer::PreTokenizer(const Json* node) {
  std::vector<const Json*> nodes;
  flatten(node, "pretokenizers", nodes);
  Growth growth("pre-tokenizer");
  for (const Json* member : nodes) {
    for (Stage& stage : read(*member)) {
      growth.add(stage.kind == Stage::byte_level ? 2 : stage.mark.size() + 1);
      stages_.push_back(std::move(stage));
    }
  }
}

std::vector<PreTokenizer::Stage> PreTokenizer::read(const Json& node) {
  std::vector<Stage> stages;
  const auto add_split = [&](std::unique_ptr<Pattern> pattern, SplitBehavior behavior, bool invert = false) {
    Stage stage;
    stage.pattern = std::move(pattern);
    stage.behavior = behavior;
    stage.invert = invert;
    stages.push_back(std::move(stage));
  };
  const auto type = field<std::string>(node, "type");
  if (type == "Split") {
    const auto pattern = field<Json>(node, "pattern");
    const Json* literal = find_field(pattern, "String");
    add_split(literal ? std::make_unique<LiteralPattern>(literal->get<std::string>())
                      : Pattern::compile(field<std::string>(pattern, "Regex")),
              read_behavior(node, ""), field_or<bool>(node, "invert", false));
  } else if (type == "Digits") {
    const bool each = field_or<bool>(node, "individual_digits", false);
    add_split(std::make_unique<FlagPattern>(kNumeric),
              each ? SplitBehavior::isolated : SplitBehavior::contiguous);
  } else if (type == "Punctuation") {
    add_split(std::make_unique<FlagPattern>(kPunctuation), read_behavior(node, "Isolated"));
  } else if (type == "WhitespaceSplit") {
    add_split(std::make_unique<FlagPattern>(kWhite), SplitBehavior::removed);
  } else if (type == "Whitespace") {
    add_split(std::make_unique<WordPattern>(), SplitBehavior::removed, true);
  } else if (type == "CharDelimiterSplit") {
    add_split(std::make_unique<LiteralPattern>(field<std::string>(node, "delimiter")),
              SplitBehavior::removed);
  } else if (type == "Metaspace") {
    Stage& stage = stages.emplace_back();
    stage.kind = Stage::metaspace;
    stage.mark = field<std::string>(node, "replacement");
    const auto scheme = field_or<bool>(node, "add_prefix_space", true)
                            ? field_or<std::string>(node, "prepend_scheme", "always")
                            : std::string("never");
    if (scheme != "always" && scheme != "first" && scheme != "never")
      refuse("the Metaspace prepend_scheme", scheme);
    stage.prepend = scheme == "always" ? Stage::always : scheme == "first" ? Stage::first : Stage::never;
    const std::string mark = stage.mark;
    if (field_or<bool>(node, "split", true)) {
      add_split(std::make_unique<LiteralPattern>(mark), SplitBehavior::merged_with_next);
    }
  } else if (type == "ByteLevel") {
    if (field_or<bool>(node, "add_prefix_space", true)) {
      Stage& prefix = stages.emplace_back();  // Metaspace whose mark is the space itself
      prefix.kind = Stage::metaspace;
      prefix.mark = " ";
      prefix.prepend = Stage::always;
    }
    if (field_or<bool>(node, "use_regex", true))
      add_split(Pattern::compile(kGpt2Pattern), SplitBehavior::isolated);
    stages.emplace_back().kind = Stage::byte_level;
  } else {
    refuse("a pre-tokenizer of type", type);
  }
  return stages;
}

bool PreTokenizer::ends_byte_level() const {
  return !stages_.empty() && stages_.back().kind == Stage::byte_level;
}

void PreTokenizer::run_stage(std::size_t index, std::string_view text, bool at_start, PieceSink& sink) const {
  if (index == stages_.size()) return sink.piece(text);
  const Stage& stage = stages_[index];
  if (stage.kind == Stage::pattern_split) return split(index, text, at_start, sink);
  if (stage.kind == Stage::byte_level && index + 1 == stages_.size()) return sink.piece(text);
  std::string changed;
  if (stage.kind == Stage::byte_level) {
    for (const char byte : text) append_utf8(changed, byte_character(static_cast<unsigned char>(byte)));
  } else {
    changed = text;
    if (stage.mark != " ") replace_all(changed, " ", stage.mark);
    const bool wanted = stage.prepend == Stage::always || (stage.prepend == Stage::first && at_start);
    if (wanted && !changed.starts_with(stage.mark)) changed.insert(0, stage.mark);
  }
  run_stage(index + 1, changed, at_start, sink);
}

void PreTokenizer::split(std::size_t index, std::string_view text, bool at_start, PieceSink& sink) const {
  const Stage& stage = stages_[index];
  Cutter cutter(*this, index + 1, text, at_start, sink);
  MatchWalk walk(*stage.pattern, text);
  std::size_t done = 0;
  for (Span match{}; walk.next(match); done = match.end) {
    if (done != match.begin) cutter.take(stage.behavior, {done, match.begin}, stage.invert);
    cutter.take(stage.behavior, match, !stage.invert);
  }
  if (done != text.size()) cutter.take(stage.behavior, {done, text.size()}, stage.invert);
  cutter.finish();
}

}  // namespace nightshift::tokenizer
