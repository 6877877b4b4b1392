// SPDX-License-Identifier: Apache-2.0
// The scan engine. Each distinct character set of a pattern gets one bit; one table gives the bits of a
// character, so a run of a class is a loop over table look-ups. Alternatives get a bit too, set for the
// characters that they can begin with, so that most are never tried. Backtracking recurses only where a later
// item could use what a run gives back, and never deeper than the pattern is long: a text of any length is
// safe.
#include <array>
#include <bit>
#include <map>
#include <vector>

#include "tokenizer/pattern.h"
#include "tokenizer/pattern_syntax.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

using Mask = std::uint32_t;  // one bit per set or top-level alternative
constexpr std::size_t kNoMatch = static_cast<std::size_t>(-1);
constexpr std::size_t kPageSize = 256;

// Code point -> mask, in pages; equal pages are stored once.
class MaskTable {
 public:
  explicit MaskTable(const std::vector<CodeSet>& sets) {
    std::map<std::array<Mask, kPageSize>, std::uint16_t> known;
    page_of_.reserve(kCodePointEnd / kPageSize);
    for (std::uint32_t first = 0; first < kCodePointEnd; first += kPageSize) {
      std::array<Mask, kPageSize> page{};
      for (std::size_t bit = 0; bit < sets.size(); ++bit) {
        for (std::uint32_t i = 0; i < kPageSize; ++i) page[i] |= Mask{sets[bit].contains(first + i)} << bit;
      }
      const auto [it, is_new] = known.try_emplace(page, static_cast<std::uint16_t>(known.size()));
      if (is_new) masks_.insert(masks_.end(), page.begin(), page.end());
      page_of_.push_back(it->second);
    }
  }

  // Mask of the character at text[at]; `bytes` gets its length.
  Mask at(std::string_view text, std::size_t position, std::uint32_t& bytes) const {
    const auto byte = static_cast<unsigned char>(text[position]);
    if (byte < 0x80) {
      bytes = 1;
      return masks_[byte];  // page 0 comes first
    }
    const CodePoint c = code_point_at(text, position);
    bytes = c.bytes;
    return masks_[page_of_[c.value / kPageSize] * kPageSize + c.value % kPageSize];
  }

 private:
  std::vector<std::uint16_t> page_of_;
  std::vector<Mask> masks_;
};

struct Node {
  enum Op { accept, run, branch, look_ahead } op = accept;
  Mask set = 0;                    // run
  std::uint32_t min = 1, max = 1;  // run
  bool gives_back = false;         // run: shorter runs are worth trying
  bool negated = false;            // look_ahead
  int next = -1;                   // run, look_ahead
  std::vector<int> targets;        // branch: in order of preference; look_ahead: its one body
};

// What a node and all behind it can begin with. `open`: it may match without looking at a character, or has
// no fixed set.
struct First {
  CodeSet set;
  bool open = false;
};

class ScanPattern final : public Pattern {
 public:
  ScanPattern(std::vector<Node> nodes, std::vector<int> heads, Mask open_heads,
              const std::vector<CodeSet>& sets, int first_head_bit)
      : nodes_(std::move(nodes)),
        heads_(std::move(heads)),
        open_heads_(open_heads),
        first_head_bit_(first_head_bit),
        table_(sets) {}

  bool search(std::string_view text, std::size_t from, Span& match) const override {
    for (std::size_t at = from; at <= text.size();) {
      std::uint32_t bytes = 1;
      Mask candidates = open_heads_;
      if (at < text.size()) candidates |= table_.at(text, at, bytes) >> first_head_bit_;
      for (; candidates != 0; candidates &= candidates - 1) {
        const std::size_t end = run(heads_[static_cast<std::size_t>(std::countr_zero(candidates))], text, at);
        if (end == kNoMatch) continue;
        match = {at, end};
        return true;
      }
      at += bytes;
    }
    return false;
  }

 private:
  std::size_t run(int index, std::string_view text, std::size_t at) const {
    while (true) {
      const Node& node = nodes_[static_cast<std::size_t>(index)];
      switch (node.op) {
        case Node::accept:
          return at;
        case Node::branch:
          for (const int target : node.targets) {
            if (const auto end = run(target, text, at); end != kNoMatch) return end;
          }
          return kNoMatch;
        case Node::look_ahead:
          if ((run(node.targets[0], text, at) != kNoMatch) == node.negated) return kNoMatch;
          break;
        case Node::run: {
          const std::size_t begin = at;
          std::uint32_t count = 0;
          for (std::uint32_t bytes; count < node.max && at < text.size(); ++count, at += bytes) {
            if ((table_.at(text, at, bytes) & node.set) == 0) break;
          }
          if (count < node.min) return kNoMatch;
          if (node.gives_back && count > node.min) return run_back(node, text, begin, at, count);
          break;
        }
      }
      index = node.next;
    }
  }

  // Tries the rest of the pattern behind ever shorter runs.
  std::size_t run_back(const Node& node, std::string_view text, std::size_t begin, std::size_t at,
                       std::uint32_t count) const {
    while (true) {
      if (const auto end = run(node.next, text, at); end != kNoMatch) return end;
      if (count-- == node.min || at == begin) return kNoMatch;
      at = previous_character(text, at);
    }
  }

  std::vector<Node> nodes_;
  std::vector<int> heads_;  // first node of each top-level alternative
  Mask open_heads_;         // alternatives to try at any character, and at the end of the text
  int first_head_bit_;
  MaskTable table_;
};

class Compiler {
 public:
  std::unique_ptr<Pattern> compile(const std::vector<PatternSequence>& alternatives) {
    const int accept = add(Node{});
    std::vector<int> heads;
    for (const auto& sequence : alternatives) heads.push_back(add_sequence(sequence, accept));
    const std::size_t first_head_bit = sets_.size();
    if (first_head_bit + heads.size() > 32) return nullptr;
    Mask open = 0;
    for (std::size_t i = 0; i < heads.size(); ++i) {
      First first = first_of(heads[i]);
      if (first.open) open |= Mask{1} << i;
      sets_.push_back(std::move(first.set));
    }
    return std::make_unique<ScanPattern>(std::move(nodes_), std::move(heads), open, sets_,
                                         static_cast<int>(first_head_bit));
  }

 private:
  int add(Node node) {
    nodes_.push_back(std::move(node));
    return static_cast<int>(nodes_.size()) - 1;
  }

  // Nodes are made from the back, each linked to what follows it.
  int add_sequence(const PatternSequence& sequence, int next) {
    for (auto item = sequence.rbegin(); item != sequence.rend(); ++item) next = add_item(*item, next);
    return next;
  }

  int add_item(const PatternItem& item, int next) {
    Node node;
    node.next = next;
    if (item.kind == PatternItem::set) {
      const First behind = first_of(next);
      node.op = Node::run;
      node.set = Mask{1} << bit_of(item.characters);
      node.min = item.min, node.max = item.max;
      node.gives_back = !item.possessive && (behind.open || behind.set.intersects(item.characters));
    } else if (item.kind == PatternItem::group) {
      node.op = Node::branch;
      for (const auto& sequence : item.alternatives) node.targets.push_back(add_sequence(sequence, next));
      if (item.min == 0) node.targets.push_back(next);
    } else {
      node.op = Node::look_ahead;
      node.negated = item.negated;
      Node body;
      body.op = Node::branch;
      const int accept = add(Node{});
      for (const auto& sequence : item.alternatives) body.targets.push_back(add_sequence(sequence, accept));
      node.targets = {add(std::move(body))};
    }
    return add(std::move(node));
  }

  std::size_t bit_of(const CodeSet& set) {
    for (std::size_t i = 0; i < sets_.size(); ++i) {
      if (sets_[i] == set) return i;
    }
    sets_.push_back(set);
    return (sets_.size() - 1) % 32;  // more than 32 sets: the pattern is refused in the end
  }

  First first_of(int index) const {
    const Node& node = nodes_[static_cast<std::size_t>(index)];
    First first;
    if (node.op == Node::run) {
      first.set = sets_[static_cast<std::size_t>(std::countr_zero(node.set))];
      if (node.min == 0) merge(first, first_of(node.next));
    } else if (node.op == Node::branch) {
      for (const int target : node.targets) merge(first, first_of(target));
    } else {
      first.open = true;  // accept, look_ahead
    }
    return first;
  }

  static void merge(First& first, const First& other) {
    first.set.add(other.set);
    first.open = first.open || other.open;
  }

  std::vector<Node> nodes_;
  std::vector<CodeSet> sets_;  // by bit
};

}  // namespace

std::unique_ptr<Pattern> compile_scan_pattern(const std::string& regex) {
  const auto alternatives = parse_pattern(regex);
  return alternatives ? Compiler().compile(*alternatives) : nullptr;
}

}  // namespace nightshift::tokenizer
