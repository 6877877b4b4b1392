// SPDX-License-Identifier: Apache-2.0
#include "io/prompts.h"

#include <cmath>
#include <limits>

#include "io/hdf5.h"
#include "io/support.h"
#include "io/text_checks.h"
#include "io/unique_ids.h"

namespace nightshift::io {
namespace {

using h5::Store;
using test::message_of;
using test::Scratch;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Builds a file column by column.
class Builder {
 public:
  explicit Builder(const Scratch& scratch, const std::string& name = "prompts.h5")
      : path_(scratch.path(name)), file_(h5::File::create(path_)) {}

  Builder& strings(const std::string& name, const std::vector<std::string>& values) {
    file_.create(name, {.store = Store::string}).append_strings(values);
    return *this;
  }
  template <class T>
  Builder& numbers(const std::string& name, Store store, const std::vector<T>& values,
                   std::uint64_t width = 0) {
    file_.create(name, {.store = store, .width = width}).append(std::span<const T>(values));
    return *this;
  }
  std::string path() {
    file_.close();
    return path_;
  }

 private:
  std::string path_;
  h5::File file_;
};

const std::vector<std::string> kTwo{"one", "two"};

void expect_refusal(const std::string& path, const std::vector<std::string>& parts) {
  std::string message;
  try {
    PromptReader reader(path);
    reader.check_all_rows();
    ADD_FAILURE() << "accepted: " << path;
  } catch (const BadInput& error) {
    message = error.what();
  }
  EXPECT_NE(message.find(path), std::string::npos) << message;
  for (const std::string& part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << message << "\n wants " << part;
}

TEST(Prompts, ReadsTextWithRowNumbersAsIds) {
  const Scratch scratch;
  const PromptReader reader(Builder(scratch).strings("/prompts/text", {"a", "größe", ""}).path());
  EXPECT_EQ(reader.rows(), 3u);
  EXPECT_EQ(reader.form(), PromptForm::text);
  EXPECT_FALSE(reader.has_text_ids());
  const std::vector<Prompt> prompts = reader.read(1, 10);
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[0].row, 1u);
  EXPECT_EQ(prompts[0].text, "größe");
  EXPECT_EQ(std::get<std::int64_t>(prompts[1].id), 2);
  EXPECT_EQ(prompts[1].error, "");
  EXPECT_TRUE(reader.read(3, 5).empty());
  EXPECT_TRUE(reader.read(99, 5).empty());
}

TEST(Prompts, ReadsTokens) {
  const Scratch scratch;
  const PromptReader reader(Builder(scratch)
                                .numbers<std::int32_t>("/prompts/tokens", Store::int32, {1, 2, 3, -4, 5})
                                .numbers<std::uint64_t>("/prompts/offsets", Store::uint64, {0, 2, 2, 4, 5})
                                .numbers<std::int64_t>("/prompts/id", Store::int64, {10, -20, 30, 40})
                                .path());
  const std::vector<Prompt> prompts = reader.read(0, 4);
  EXPECT_EQ(prompts[0].tokens, (std::vector<TokenId>{1, 2}));
  EXPECT_TRUE(prompts[1].tokens.empty());
  EXPECT_EQ(prompts[1].error, "");
  EXPECT_EQ(prompts[2].error, "bad_tokens: token 1 is -4; ids are 0 to 2147483647");
  EXPECT_EQ(prompts[3].tokens, (std::vector<TokenId>{5}));
  EXPECT_EQ(std::get<std::int64_t>(prompts[1].id), -20);
  EXPECT_EQ(reader.unit_costs(2).value(), (std::vector<std::uint64_t>{2, 3}));
  EXPECT_EQ(reader.unit_costs(3).value(), (std::vector<std::uint64_t>{4, 1}));
}

TEST(Prompts, CellsThatStandForTheDefault) {
  const Scratch scratch;
  SamplingParams defaults;
  defaults.max_tokens = 77;
  defaults.temperature = 0.5;
  defaults.presence_penalty = 0.25;
  defaults.ignore_eos = true;
  defaults.stop = {"END"};
  const PromptReader reader(Builder(scratch)
                                .strings("/prompts/text", {"a", "b", "c"})
                                .numbers<std::int64_t>("/params/max_tokens", Store::int64, {-1, 5, -1})
                                .numbers<double>("/params/top_k", Store::float64, {kNaN, -1, 3})
                                .numbers<double>("/params/temperature", Store::float64, {kNaN, -1, 1.5})
                                .numbers<double>("/params/presence_penalty", Store::float64, {kNaN, -1, -1.5})
                                .numbers<std::int8_t>("/params/ignore_eos", Store::int8, {-1, 0, 1})
                                .strings("/params/stop", {"", "\n", R"(["x", "[y"])"})
                                .strings("/params/json", {"", R"({"seed": 9})", R"({"max_tokens": null})"})
                                .path(),
                            defaults);
  const std::vector<Prompt> p = reader.read(0, 3);
  EXPECT_EQ(p[0].params.max_tokens, 77);
  EXPECT_EQ(p[0].params.temperature, 0.5);
  EXPECT_EQ(p[0].params.presence_penalty, 0.25);
  EXPECT_TRUE(p[0].params.ignore_eos);
  EXPECT_EQ(p[0].params.stop, std::vector<std::string>{"END"});
  EXPECT_EQ(p[0].error, "");
  EXPECT_EQ(p[1].params.max_tokens, 5);
  EXPECT_EQ(p[1].params.top_k, 0);
  EXPECT_EQ(p[1].params.presence_penalty, -1);  // legal, so not a default
  EXPECT_EQ(p[1].error, "bad_params: temperature -1 is below 0");
  EXPECT_FALSE(p[1].params.ignore_eos);
  EXPECT_EQ(p[1].params.stop, std::vector<std::string>{"\n"});
  EXPECT_EQ(p[1].params.seed, 9u);
  EXPECT_EQ(p[2].params.max_tokens, 77);
  EXPECT_EQ(p[2].params.top_k, 3);
  EXPECT_EQ(p[2].params.temperature, 1.5);
  EXPECT_EQ(p[2].params.stop, (std::vector<std::string>{"x", "[y"}));
  EXPECT_EQ(p[2].error, "");
  EXPECT_EQ(reader.unit_costs(1).value(), (std::vector<std::uint64_t>{77, 5, 77}));
}

TEST(Prompts, WhatTheTemplateReadsTravelsApart) {
  const Scratch scratch;
  const std::string message = R"([{"role": "user", "content": "hi"}])";
  const PromptReader reader(
      Builder(scratch)
          .strings("/prompts/messages", {message, message, message})
          .strings(
              "/params/json",
              {R"({"tools": [{"type": "function"}], "tool_choice": "auto", "top_p": 0.5})",
               R"({"chat_template_kwargs": {"enable_thinking": false}})", R"({"tool_choice": "required"})"})
          .path());
  const std::vector<Prompt> p = reader.read(0, 3);
  EXPECT_EQ(p[0].extra_json, R"({"tools":[{"type":"function"}]})");
  EXPECT_EQ(p[0].params.top_p, 0.5);
  EXPECT_EQ(p[0].error, "");
  EXPECT_EQ(p[1].extra_json, R"({"chat_template_kwargs":{"enable_thinking":false}})");
  EXPECT_TRUE(p[2].error.starts_with("bad_params: tool_choice")) << p[2].error;
}

TEST(Prompts, EveryStructuralFaultIsNamed) {
  const Scratch s;
  expect_refusal(s.path("absent.h5"), {"cannot open", "No such file"});
  test::spill(s.path("text.h5"), "these are not the prompts you are looking for");
  expect_refusal(s.path("text.h5"), {"not a readable HDF5 file", "file signature not found"});
  test::spill(s.path("empty.h5"), "");
  expect_refusal(s.path("empty.h5"), {"not a readable HDF5 file"});
  const std::string good =
      Builder(s, "good.h5").strings("/prompts/text", std::vector<std::string>(5000, "x")).path();
  const std::string whole = test::slurp(good);
  test::spill(s.path("cut.h5"), whole.substr(0, whole.size() - 100));
  expect_refusal(s.path("cut.h5"), {"not a readable HDF5 file", "truncated"});

  expect_refusal(Builder(s, "none.h5").strings("/promts/text", kTwo).path(),
                 {"has no prompts; its root holds: promts", "exactly one of"});
  expect_refusal(
      Builder(s, "both.h5").strings("/prompts/text", kTwo).strings("/prompts/messages", kTwo).path(),
      {"has /prompts/text and /prompts/messages", "exactly one of"});
  expect_refusal(
      Builder(s, "two_d.h5").numbers<std::int32_t>("/prompts/text", Store::int32, {1, 2, 3, 4}, 2).path(),
      {"/prompts/text holds int32 in shape [2, 2]", "it needs strings in shape [N]"});
  expect_refusal(Builder(s, "ids.h5").strings("/prompts/text", kTwo).strings("/prompts/ids", kTwo).path(),
                 {"/prompts/ids is not a column; did you mean /prompts/id?"});
  expect_refusal(
      Builder(s, "id_short.h5").strings("/prompts/text", kTwo).strings("/prompts/id", {"a"}).path(),
      {"/prompts/id has shape [1]", "one id per prompt: [2]"});
  expect_refusal(Builder(s, "id_float.h5")
                     .strings("/prompts/text", kTwo)
                     .numbers<double>("/prompts/id", Store::float64, {1, 2})
                     .path(),
                 {"/prompts/id holds float64", "strings or integers"});
  expect_refusal(Builder(s, "id_twice.h5")
                     .strings("/prompts/text", {"a", "b", "c"})
                     .strings("/prompts/id", {"x", "y", "x"})
                     .path(),
                 {"/prompts/id \"x\" stands in rows 0 and 2", "unique"});
  expect_refusal(Builder(s, "id_big.h5")
                     .strings("/prompts/text", kTwo)
                     .numbers<std::uint64_t>("/prompts/id", Store::uint64, {1, ~0ull})
                     .path(),
                 {"/prompts/id[1] is 18446744073709551615", "int64"});
}

TEST(Prompts, EveryFaultOfOffsetsIsNamed) {
  const Scratch s;
  const auto file = [&](const std::string& name, std::vector<std::int64_t> offsets) {
    return Builder(s, name)
        .numbers<std::int32_t>("/prompts/tokens", Store::int32, {1, 2, 3, 4})
        .numbers<std::int64_t>("/prompts/offsets", Store::int64, offsets)
        .path();
  };
  expect_refusal(
      Builder(s, "no_offsets.h5").numbers<std::int32_t>("/prompts/tokens", Store::int32, {1}).path(),
      {"/prompts/tokens without /prompts/offsets", "uint64 [N+1]"});
  expect_refusal(file("none.h5", {}), {"/prompts/offsets is empty"});
  expect_refusal(file("fall.h5", {0, 3, 2, 4}), {"/prompts/offsets[2] is 2, after 3", "must not fall"});
  expect_refusal(file("beyond.h5", {0, 9, 4}), {"/prompts/offsets[1] is 9", "4 tokens"});
  expect_refusal(file("negative.h5", {0, -1, 4}), {"/prompts/offsets[1] is -1"});
  expect_refusal(file("short.h5", {0, 2}), {"goes from 0 to 2", "4 elements", "from 0 to 4"});
  expect_refusal(file("late.h5", {1, 4}), {"goes from 1 to 4"});
}

TEST(Prompts, EveryFaultOfParameterColumnsIsNamed) {
  const Scratch s;
  expect_refusal(Builder(s, "p1.h5")
                     .strings("/prompts/text", kTwo)
                     .numbers<double>("/params/temprature", Store::float64, {1, 2})
                     .path(),
                 {"/params/temprature is not a parameter; did you mean /params/temperature?",
                  "legal columns: json, max_tokens"});
  expect_refusal(Builder(s, "p2.h5")
                     .strings("/prompts/text", kTwo)
                     .numbers<double>("/params/top_p", Store::float64, {1})
                     .path(),
                 {"/params/top_p has shape [1]", "one value per prompt: [2]"});
  expect_refusal(Builder(s, "p3.h5").strings("/prompts/text", kTwo).strings("/params/top_p", kTwo).path(),
                 {"/params/top_p holds string (variable, UTF-8)", "numbers"});
  expect_refusal(Builder(s, "p4.h5")
                     .strings("/prompts/text", kTwo)
                     .numbers<double>("/params/stop", Store::float64, {1, 2})
                     .path(),
                 {"/params/stop holds float64", "strings"});
  expect_refusal(Builder(s, "p5.h5")
                     .strings("/prompts/text", kTwo)
                     .numbers<double>("/params/json", Store::float64, {1, 2})
                     .path(),
                 {"/params/json holds float64", "strings"});
}

struct BadRow {
  std::string messages, json, reason;
};

TEST(Prompts, EveryKindOfBadRowIsARowWithAReason) {
  const std::string good = R"([{"role": "user", "content": "hi"}])";
  const std::vector<BadRow> kinds{
      {good, "", ""},
      {"[{\"role\": \"user\", \"content\": \"\xff\"}]", "", "invalid_utf8: byte 30"},
      {"[{\"role\": \"user\", \"content\": \"\xed\xa0\x80\"}]", "", "invalid_utf8: byte 30"},
      {"hello", "", "bad_messages: not JSON at byte 1"},
      {"", "", "bad_messages: not JSON at byte 1"},
      {R"([{"role": "user", "content": "cut)", "", "bad_messages: not JSON at byte 34"},
      {R"({"role": "user"})", "", "bad_messages: not a JSON array of messages"},
      {"[]", "", "bad_messages: no messages"},
      {"[1]", "", "bad_messages: message 0 is not an object"},
      {R"([{"content": "hi"}])", "", "bad_messages: message 0 has no role"},
      {R"([{"role": "user"}])", "", "bad_messages: message 0 has no content"},
      {R"([{"role": "user", "content": 3}])", "",
       "bad_messages: the content of message 0 is neither text nor a list of parts"},
      {std::string(100000, '['), "", "bad_messages: nested deeper than 100 levels"},
      {good, "{", "bad_params: /params/json is not a JSON object"},
      {good, "[]", "bad_params: /params/json is not a JSON object"},
      {good, std::string(100000, '['), "bad_params: /params/json is nested too deeply"},
      {good, R"({"temperature": "hot"})", "bad_params: temperature"},
      {good, R"({"max_tokens": 0})", "bad_params: max_tokens"},
      {good, R"({"logit_bias": {"5": 1}})", "bad_params: logit_bias"},
      {good, R"({"stop": [""]})", "bad_params: stop"},
      {good, "{\"stop\": \"\xc3\"}", "bad_params: "},
  };
  const Scratch scratch;
  std::vector<std::string> messages, json;
  std::vector<double> temperature;
  for (std::size_t row = 0; row < 200; ++row) {
    messages.push_back(kinds[row % kinds.size()].messages);
    json.push_back(kinds[row % kinds.size()].json);
    temperature.push_back(row % 40 == 0 ? 1000.0 : row % 50 == 0 ? INFINITY : kNaN);
  }
  const PromptReader reader(Builder(scratch)
                                .strings("/prompts/messages", messages)
                                .strings("/params/json", json)
                                .numbers<double>("/params/temperature", Store::float64, temperature)
                                .path());
  reader.check_all_rows();
  const std::vector<Prompt> prompts = reader.read(0, 200);
  ASSERT_EQ(prompts.size(), 200u);
  for (std::size_t row = 0; row < 200; ++row) {
    const std::string& reason = kinds[row % kinds.size()].reason;
    const bool bad_column = row % 40 == 0 || row % 50 == 0;
    if (reason.empty() || (bad_column && reason.starts_with("bad_params"))) {
      EXPECT_EQ(prompts[row].error.starts_with("bad_params: temperature"), bad_column) << prompts[row].error;
      EXPECT_EQ(prompts[row].error.empty(), !bad_column) << prompts[row].error;
    } else {
      EXPECT_TRUE(prompts[row].error.starts_with(reason))
          << row << ": " << prompts[row].error << "\n wants " << reason;
    }
    EXPECT_FALSE(invalid_utf8(prompts[row].error));
    EXPECT_LT(prompts[row].error.size(), 600u);
  }
}

// Extents cost a file nothing; memory must not follow them.
TEST(Prompts, AbsurdExtentsAllocateNothing) {
  const Scratch s;
  h5::File file = h5::File::create(s.path("p.h5"));
  file.create("/prompts/tokens", {.store = Store::int32, .rows = 1ull << 29});
  file.create("/prompts/offsets", {.store = Store::uint64})
      .append(std::span<const std::uint64_t>(std::vector<std::uint64_t>{0, 3, 1ull << 29}));
  file.close();
  test::reset_peak_rss();
  const std::size_t before = test::peak_rss_bytes();
  const std::vector<Prompt> prompts = PromptReader(s.path("p.h5")).read(0, 5);
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[0].tokens, (std::vector<TokenId>{0, 0, 0}));
  EXPECT_TRUE(prompts[1].error.starts_with("bad_tokens: 536870909 tokens")) << prompts[1].error;

  h5::File endless = h5::File::create(s.path("e.h5"));
  endless.create("/prompts/tokens", {.store = Store::int32, .rows = 1ull << 60});
  endless.create("/prompts/offsets", {.store = Store::uint64})
      .append(std::span<const std::uint64_t>(std::vector<std::uint64_t>{0, 3, 1ull << 60}));
  endless.close();
  expect_refusal(s.path("e.h5"), {"/prompts/tokens claims 1152921504606846976 rows in a file of"});

  h5::File wide = h5::File::create(s.path("t.h5"));
  wide.create("/prompts/text", {.store = Store::string, .rows = 1ull << 40});
  wide.close();
  expect_refusal(s.path("t.h5"), {"/prompts/text claims 1099511627776 rows"});
  EXPECT_LT(test::peak_rss_bytes() - before, 32u << 20);
}

TEST(Prompts, IdsAreComparedInBoundedPasses) {
  std::vector<RowId> ids;
  for (int i = 0; i < 20000; ++i) ids.emplace_back("id-" + std::to_string(i));
  int reads = 0;
  const auto read = [&](PromptRow first, std::uint64_t count) {
    ++reads;
    return std::vector<RowId>(ids.begin() + static_cast<std::ptrdiff_t>(first),
                              ids.begin() + static_cast<std::ptrdiff_t>(first + count));
  };
  EXPECT_FALSE(find_repeated_id(ids.size(), read, 1000));
  EXPECT_EQ(reads, 20 * 3);  // 20 partitions, 3 reads of 8,192 rows each
  ids[19999] = ids[3];
  const auto repeated = find_repeated_id(ids.size(), read, 1000);
  ASSERT_TRUE(repeated);
  EXPECT_EQ(*repeated, (std::pair<PromptRow, PromptRow>(3, 19999)));
}

TEST(Prompts, TheDigestFollowsTheContent) {
  const Scratch s;
  const std::string a = s.path("a"), b = s.path("b");
  test::spill(a, std::string(3000000, 'x'));
  test::spill(b, std::string(3000000, 'x'));
  EXPECT_EQ(digest_file(a), digest_file(b));
  std::string changed(3000000, 'x');
  changed[2999999] = 'y';
  test::spill(b, changed);
  EXPECT_NE(digest_file(a), digest_file(b));
  EXPECT_TRUE(digest_file(a).text().ends_with("-3000000")) << digest_file(a).text();
  // Past 1 GiB by a hole: sampled, and the last byte still counts.
  for (const std::string& path : {a, b}) std::filesystem::resize_file(path, (1ull << 30) + 12345);
  EXPECT_TRUE(digest_file(a).text().ends_with("-sampled"));
}

TEST(TextChecks, Utf8) {
  EXPECT_FALSE(invalid_utf8("plain, größe, 日本, 🌙, \xf4\x8f\xbf\xbf"));
  EXPECT_EQ(invalid_utf8("12345678901234567\xff"), 17u);
  for (const char* bad : {"\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\x80", "\xe2\x82", "\xc3"}) {
    EXPECT_EQ(invalid_utf8(bad), 0u);
  }
  EXPECT_EQ(storable_text(std::string("a\0b\xff", 4)),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD");
  EXPECT_TRUE(nests_deeper("[[[", 2));
  EXPECT_FALSE(nests_deeper(R"(["[[[[", "\"[[["])", 2));
}

// 10 million prompts of three tokens, written a piece at a time; reading them all must not need memory for
// them all.
TEST(PromptsSlow, TenMillionRowsStreamInConstantMemory) {
  const Scratch scratch;
  constexpr std::uint64_t kRows = 10'000'000, kPiece = 100'000;
  const std::string path = scratch.path("large.h5");
  {
    h5::File file = h5::File::create(path);
    {
      h5::Dataset tokens = file.create("/prompts/tokens", {.store = Store::int32});
      h5::Dataset offsets = file.create("/prompts/offsets", {.store = Store::uint64});
      h5::Dataset ids = file.create("/prompts/id", {.store = Store::int64});
      offsets.append(std::span<const std::uint64_t>(std::vector<std::uint64_t>{0}));
      for (std::uint64_t first = 0; first < kRows; first += kPiece) {
        std::vector<std::int32_t> t;
        std::vector<std::uint64_t> o;
        std::vector<std::int64_t> id;
        for (std::uint64_t row = first; row < first + kPiece; ++row) {
          for (std::uint64_t k = 0; k < 3; ++k) t.push_back(static_cast<std::int32_t>((row + k) % 1000));
          o.push_back(3 * row + 3);
          id.push_back(static_cast<std::int64_t>(row * 7));
        }
        tokens.append(std::span<const std::int32_t>(t));
        offsets.append(std::span<const std::uint64_t>(o));
        ids.append(std::span<const std::int64_t>(id));
      }
    }
    file.close();
  }
  test::reset_peak_rss();
  const std::size_t before = test::peak_rss_bytes();
  const auto start = std::chrono::steady_clock::now();
  const PromptReader reader(path);
  std::uint64_t rows = 0, tokens = 0;
  for (PromptRow first = 0; first < kRows; first += 512) {
    for (const Prompt& prompt : reader.read(first, 512)) {
      ++rows;
      tokens += prompt.tokens.size();
    }
  }
  const std::size_t streamed = test::peak_rss_bytes() - before;
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(rows, kRows);
  EXPECT_EQ(tokens, 3 * kRows);
  const auto check_start = std::chrono::steady_clock::now();
  reader.check_all_rows();
  const std::chrono::duration<double> checked = std::chrono::steady_clock::now() - check_start;
  const std::size_t after = test::peak_rss_bytes() - before;
  std::printf(
      "prompts: 10 M rows read in %.1f s, %.1f MiB more; all ids and offsets checked in %.1f s, %.1f MiB "
      "more\n",
      spent.count(), static_cast<double>(streamed) / 1048576.0, checked.count(),
      static_cast<double>(after) / 1048576.0);
  EXPECT_LT(streamed, 32u << 20);
  EXPECT_LT(after, 192u << 20);
}

}  // namespace
}  // namespace nightshift::io
