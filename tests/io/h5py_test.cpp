// SPDX-License-Identifier: Apache-2.0
// Files that h5py writes, and ours as h5py reads them.
#include <nlohmann/json.hpp>

#include "io/support.h"

namespace nightshift::io {
namespace {

using test::Scratch;

std::vector<std::string> expected_texts() {
  return {"plain", "größe 日本 🌙", "", "line\nbreak", std::string(5000, 'x')};
}

nlohmann::json ids_of(const PromptReader& reader) {
  nlohmann::json out = nlohmann::json::array();
  for (const RowId& id : reader.read_ids(0, reader.rows())) {
    std::visit([&](const auto& value) { out.push_back(value); }, id);
  }
  return out;
}

// The script writes one file for each way of storing the same prompts, and says in JSON what each must give.
TEST(H5py, EveryWayOfStoringPromptsIsRead) {
  if (!test::has_h5py()) GTEST_SKIP() << "no Python with h5py (NIGHTSHIFT_PYTHON names one)";
  const Scratch s;
  ASSERT_EQ(test::run_python("h5py_inputs.py", {s.root()}), 0);
  const auto cases = nlohmann::json::parse(test::slurp(s.path("cases.json")));
  EXPECT_GE(cases.size(), 20u);
  for (const auto& [name, expected] : cases.items()) {
    SCOPED_TRACE(name);
    const PromptReader reader(s.path(name));
    reader.check_all_rows();
    EXPECT_EQ(name_of(reader.form()), expected.at("form"));
    const std::vector<Prompt> prompts = reader.read(0, 1000);
    ASSERT_EQ(prompts.size(), expected.at("rows"));
    for (const Prompt& prompt : prompts) EXPECT_EQ(prompt.error, "");
    const auto check = [&](const char* what, const auto& get) {
      if (!expected.contains(what)) return;
      for (std::size_t i = 0; i < prompts.size(); ++i)
        EXPECT_EQ(nlohmann::json(get(prompts[i])), expected.at(what).at(i)) << what << i;
    };
    check("text", [](const Prompt& p) { return p.text; });
    check("tokens", [](const Prompt& p) { return p.tokens; });
    check("max_tokens", [](const Prompt& p) { return p.params.max_tokens; });
    check("temperature", [](const Prompt& p) { return p.params.temperature; });
    check("ignore_eos", [](const Prompt& p) { return p.params.ignore_eos; });
    check("stop", [](const Prompt& p) { return p.params.stop; });
    if (expected.contains("id")) {
      EXPECT_EQ(ids_of(reader), expected.at("id"));
    }
  }
}

TEST(H5py, ResultsAreReadInOneLine) {
  if (!test::has_h5py()) GTEST_SKIP() << "no Python with h5py (NIGHTSHIFT_PYTHON names one)";
  const Scratch s;
  const std::vector<std::string> texts = expected_texts();
  const PromptReader prompts(test::write_text_prompts(s, texts.size(), true));
  std::filesystem::create_directory(s.path("j"));
  ResultJournal journal(s.path("j"), 0, 1);
  for (PromptRow row = 0; row < texts.size(); ++row) {
    ResultRecord r;
    r.row = row;
    r.text = texts[row];
    r.finish_reason = row == 2 ? FinishReason::failed : FinishReason::stop;
    r.error = row == 2 ? "too_long: 9 > 8 tokens" : "";
    for (PromptRow t = 0; t < row; ++t) r.tokens.push_back(static_cast<TokenId>(100 * row + t));
    r.logprobs.assign(r.tokens.size(), -0.5F);
    r.finished_s = static_cast<double>(row);
    journal.append(r);
  }
  journal.close();
  for (const int deflate : {0, 4}) {
    write_results(s.path("answers.h5"), prompts, JournalIndex(s.path("j"), 1),
                  {.logprobs = true, .top_k = 3, .deflate = deflate, .provenance = R"({"größe": 1})"});
    EXPECT_EQ(test::run_python("h5py_results.py", {s.path("answers.h5"), nlohmann::json(texts).dump()}), 0);
  }
}

TEST(H5py, ConvertedLinesAreReadByH5py) {
  if (!test::has_h5py()) GTEST_SKIP() << "no Python with h5py (NIGHTSHIFT_PYTHON names one)";
  const Scratch s;
  std::string lines;
  for (int i = 0; i < 6000; ++i) {
    lines +=
        nlohmann::json{
            {"custom_id", fmt::format("c{}", i)},
            {"method", "POST"},
            {"url", "/v1/completions"},
            {"body",
             {{"prompt", fmt::format("p{}", i)},
              {i < 5000 ? "user" : "temperature", i < 5000 ? nlohmann::json("u") : nlohmann::json(0.5)}}}}
            .dump() +
        "\n";
  }
  test::spill(s.path("in.jsonl"), lines);
  import_batch(s.path("in.jsonl"), s.path("p.h5"));
  EXPECT_EQ(test::run_python("h5py_converted.py", {s.path("p.h5")}), 0);
}

}  // namespace
}  // namespace nightshift::io
