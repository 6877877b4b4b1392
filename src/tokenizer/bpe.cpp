// SPDX-License-Identifier: Apache-2.0
// Reading a model; bpe_encode.cpp applies it.
#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace nightshift::tokenizer {
namespace {

constexpr std::string_view kMetaBytes = "\xE2\x96\x81";  // U+2581, which stands for a space

std::string fallback_name(unsigned byte) {
  return fmt::format("<0x{:02X}>", byte);
}

// Printable Latin-1 stands for itself, the other bytes for the characters from U+0100 on, in order.
bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<std::uint32_t, 256> character{};
  std::array<int, 0x200> byte{};
  Alphabet() {
    byte.fill(-1);
    std::uint32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      character[b] = stands_for_itself(b) ? b : next++;
      byte[character[b]] = static_cast<int>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet table;
  return table;
}

// The bytes that a token of the byte alphabet stands for; false if a character is outside the alphabet.
bool spell_bytes(std::string_view token, std::string& bytes) {
  bytes.clear();
  for (std::size_t at = 0; at < token.size();) {
    const CodePoint c = code_point_at(token, at);
    const int byte = byte_of_character(c.value);
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
    at += c.bytes;
  }
  return true;
}

}  // namespace

std::uint32_t byte_character(unsigned char byte) {
  return alphabet().character[byte];
}

int byte_of_character(std::uint32_t c) {
  return c < alphabet().byte.size() ? alphabet().byte[c] : -1;
}

void MergeTable::reserve(std::size_t merges) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(16, merges * 2));
  entries_.assign(size, Entry{});
  mask_ = size - 1;
  shift_ = 64 - std::countr_zero(size);
}

void MergeTable::insert(TokenId left, TokenId right, std::uint32_t rank, TokenId product) {
  const std::uint64_t pair = key(left, right);
  std::size_t i = slot(pair);
  while (entries_[i].pair != pair && entries_[i].pair != ~std::uint64_t{0}) i = (i + 1) & mask_;
  entries_[i] = {pair, rank, product};
}

Bpe::Bpe(const Json& model, bool byte_level) : byte_level_(byte_level) {
  const auto type = field_or<std::string>(model, "type", "BPE");
  if (type != "BPE") refuse("a model of type", type);
  if (field_or<double>(model, "dropout", 0) > 0) refuse("the BPE option", "dropout");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!field_or<std::string>(model, affix, "").empty()) refuse("the BPE option", affix);
  }
  ignore_merges_ = field_or<bool>(model, "ignore_merges", false);
  byte_fallback_ = field_or<bool>(model, "byte_fallback", false);
  fuse_unknown_ = field_or<bool>(model, "fuse_unk", false);
  read_vocabulary(model);
  if (find_field(model, "unk_token")) {
    has_unknown_ = true;
    unknown_ = id_of(field<std::string>(model, "unk_token"));
  }
  make_unit_tables(byte_level);
  read_merges(model);
}

void Bpe::read_vocabulary(const Json& model) {
  const Json* vocabulary = find_field(model, "vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) {
    throw BadInput("tokenizer.json: the model's \"vocab\" is missing or is no object");
  }
  constexpr std::int64_t kMostHoles = 1 << 20;  // a table by id has room for them all
  const std::int64_t most = static_cast<std::int64_t>(vocabulary->size()) + kMostHoles;
  ids_.reserve(vocabulary->size());
  for (const auto& [token, id] : vocabulary->items()) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= most) {
      throw BadInput(fmt::format("tokenizer.json: token \"{}\" has the id {}", token, id.dump()));
    }
    const auto value = id.get<TokenId>();
    if (static_cast<std::size_t>(value) >= tokens_.size())
      tokens_.resize(static_cast<std::size_t>(value) + 1);
    tokens_[static_cast<std::size_t>(value)] = token;
    ids_.emplace(token, value);
  }
}

TokenId Bpe::id_of(std::string_view token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? -1 : it->second;
}

void Bpe::read_merges(const Json& model) {
  const Json* merges = find_field(model, "merges");
  if (merges == nullptr || !merges->is_array())
    throw BadInput("tokenizer.json: the model's \"merges\" are missing");
  merges_.reserve(merges->size());
  std::uint32_t rank = 0;
  for (const Json& merge : *merges) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), rank++);
    } else if (merge.is_string()) {
      const auto& line = merge.get_ref<const std::string&>();
      if (line.starts_with("#version")) continue;
      const auto [left, right] = split_merge(line);
      add_merge(left, right, rank++);
    } else {
      throw BadInput(
          fmt::format("tokenizer.json: merge {} is no pair of tokens: {:.80}", rank, merge.dump()));
    }
  }
  std::sort(joined_before_.begin(), joined_before_.end());
  joined_before_.erase(std::unique(joined_before_.begin(), joined_before_.end()), joined_before_.end());
}

// "left right". Tokens that hold spaces make this ambiguous; it is taken if the vocabulary allows just one
// reading.
std::pair<std::string, std::string> Bpe::split_merge(const std::string& line) const {
  std::pair<std::string, std::string> found;
  int readings = 0;
  for (auto space = line.find(' '); space != std::string::npos; space = line.find(' ', space + 1)) {
    std::string left = line.substr(0, space), right = line.substr(space + 1);
    if (left.empty() || right.empty() || !ids_.contains(left + right)) continue;
    if (!ids_.contains(left) || !ids_.contains(right)) continue;
    found = {std::move(left), std::move(right)};
    ++readings;
  }
  if (readings != 1) {
    throw BadInput(
        fmt::format("tokenizer.json: merge \"{}\" {}", line,
                    readings ? "can be read in several ways" : "names tokens that the vocabulary lacks"),
        "save the tokenizer again with a current version of tokenizers, which writes merges as pairs");
  }
  return found;
}

void Bpe::add_merge(const std::string& left, const std::string& right, std::uint32_t rank) {
  const TokenId l = id_of(left), r = id_of(right), product = id_of(left + right);
  if (l < 0 || r < 0 || product < 0) {
    throw BadInput(fmt::format(
        "tokenizer.json: merge \"{}\" + \"{}\" names a token that the vocabulary lacks", left, right));
  }
  merges_.insert(l, r, rank, product);
  products_.push_back(product);
  const auto is_spelled =
      [&](TokenId id) {  // unknown and fallback tokens do not consist of their own characters
        return id == unknown_ || std::find(fallback_.begin(), fallback_.end(), id) != fallback_.end();
      };
  if (cuts_words_ && (is_spelled(l) || is_spelled(r))) cuts_words_ = false;
  const std::string whole = left + right;
  for (auto at = whole.find(kMetaBytes, 1); at != std::string::npos; at = whole.find(kMetaBytes, at + 1)) {
    joined_before_.push_back(code_point_at(whole, previous_character(whole, at)).value);
  }
}

void Bpe::make_unit_tables(bool byte_level) {
  for (unsigned byte = 0; byte < 256; ++byte) fallback_[byte] = id_of(fallback_name(byte));
  if (byte_level) {
    std::string bytes;
    for (const auto& [token, id] : ids_) {
      if (spell_bytes(token, bytes)) byte_ids_.emplace(bytes, id);
    }
    for (unsigned byte = 0; byte < 256; ++byte) {
      std::string character;
      append_utf8(character, byte_character(static_cast<unsigned char>(byte)));
      byte_unit_[byte] = id_of(character);
      byte_spell_[byte] = fallback_of(character);
    }
    return;
  }
  unit_page_.assign(kCodePointEnd / kUnitPage, -1);
  for (const auto& [token, id] : ids_) {
    if (token.empty()) continue;
    const CodePoint c = code_point_at(token, 0);
    if (c.bytes != token.size()) continue;
    auto& page = unit_page_[c.value / kUnitPage];
    if (page < 0) {
      page = static_cast<std::int32_t>(unit_ids_.size());
      unit_ids_.resize(unit_ids_.size() + kUnitPage, -1);
    }
    unit_ids_[static_cast<std::size_t>(page) + c.value % kUnitPage] = id;
  }
  cuts_words_ = ids_.contains(kMetaBytes);
}

// The byte tokens of a unit that is not in the vocabulary; empty if one of them is missing or the model has
// none.
std::vector<TokenId> Bpe::fallback_of(std::string_view unit) const {
  std::vector<TokenId> ids;
  if (!byte_fallback_) return ids;
  for (const char byte : unit) {
    const TokenId id = fallback_[static_cast<unsigned char>(byte)];
    if (id < 0) return {};
    ids.push_back(id);
  }
  return ids;
}

}  // namespace nightshift::tokenizer
