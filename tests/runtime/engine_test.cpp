// SPDX-License-Identifier: Apache-2.0
// The engine's loop over a made-up executor: every token is a function of the sequence's own tokens, so what
// must come out is known without a model.
#include "runtime/engine.h"

#include <gtest/gtest.h>

#include "model/random.h"
#include "runtime/support.h"

namespace nightshift::runtime {
namespace {

class EngineTest : public ::testing::Test {
 protected:
  void write_prompts(const std::vector<std::string>& bodies) { work_.write_prompts(bodies); }
  std::vector<io::ResultRecord> records() const { return work_.records(); }
  bool run(
      AlphabetExecutor& executor, int max_context = 512, std::function<bool()> tick = [] { return true; }) {
    counters_ = RunCounters();
    scheduler::Options options = small_options();
    options.max_context = max_context;
    return lead(work_, world_, world_, executor, options, counters_, std::move(tick));
  }

  parallel::Communicator world_ = parallel::Communicator::world();
  Workplace work_{"engine"};
  RunCounters counters_;
};

TEST_F(EngineTest, EveryPromptIsAnsweredOnce) {
  write_prompts(std::vector<std::string>(50, R"({"prompt":"hello","model":"m"})"));
  AlphabetExecutor executor(5);
  EXPECT_TRUE(run(executor));
  const auto rows = records();
  ASSERT_EQ(rows.size(), 50u);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].row, i);
    EXPECT_EQ(rows[i].tokens, (std::vector<TokenId>{65, 66, 67, 68, 69, kEnd}));
    EXPECT_EQ(rows[i].text, "ABCDE");
    EXPECT_EQ(rows[i].finish_reason, FinishReason::stop);
    EXPECT_GT(rows[i].first_token_s, rows[i].started_s);
    EXPECT_GE(rows[i].finished_s, rows[i].first_token_s);
  }
  EXPECT_EQ(counters_.prompts_done, 50u);
  EXPECT_EQ(counters_.output_tokens, 300u);
  EXPECT_EQ(counters_.time_to_first_token.count(), 50u);
  EXPECT_EQ(counters_.inter_token.count(), 250u);
}

TEST_F(EngineTest, StopStringsCutTheTextAndLengthsEndIt) {
  write_prompts({R"({"prompt":"x","stop":["CD"]})", R"({"prompt":"x","stop":["CD"],"min_tokens":5})",
                 R"({"prompt":"x","max_tokens":3})", R"({"prompt":"x","stop":["EZ","zz"]})"});
  AlphabetExecutor executor(6);
  EXPECT_TRUE(run(executor));
  const auto rows = records();
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].text, "AB");
  EXPECT_EQ(rows[0].finish_reason, FinishReason::stop);
  EXPECT_EQ(rows[0].tokens.size(), 4u);
  EXPECT_EQ(rows[1].text, "ABCDEF");  // the stop string came too early to count
  EXPECT_EQ(rows[2].text, "ABC");
  EXPECT_EQ(rows[2].finish_reason, FinishReason::length);
  EXPECT_EQ(rows[3].text, "ABCDEF");  // what was held back as a possible "EZ" is handed out
}

// 67 is "C", an ordinary word that ends these answers. It stays among the tokens.
TEST_F(EngineTest, AWordThatEndsAnAnswerIsNoPartOfItsText) {
  write_prompts({R"({"prompt":"x","stop_token_ids":[67]})",
                 R"({"prompt":"x","stop_token_ids":[67],"stop":["zz"]})",
                 R"({"prompt":"x","stop_token_ids":[67],"stop":["B"]})"});
  AlphabetExecutor executor(6);
  EXPECT_TRUE(run(executor));
  const auto rows = records();
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].text, "AB");
  EXPECT_EQ(rows[0].tokens, (std::vector<TokenId>{65, 66, 67}));
  EXPECT_EQ(rows[1].text, "AB");
  EXPECT_EQ(rows[2].text, "A");
}

TEST_F(EngineTest, SeveralSamplesAndLogprobs) {
  write_prompts({R"({"prompt":"x","n":3,"logprobs":2})"});
  AlphabetExecutor executor(2);
  EXPECT_TRUE(run(executor));
  const auto rows = records();
  ASSERT_EQ(rows.size(), 3u);
  for (std::int32_t s = 0; s < 3; ++s) {
    const auto& row = rows[static_cast<std::size_t>(s)];
    EXPECT_EQ(row.sample, s);
    EXPECT_EQ(row.samples, 3);
    EXPECT_EQ(row.logprobs, (std::vector<float>{-0.5F, -0.5F, -0.5F}));
    EXPECT_EQ(row.top.size(), 6u);
  }
}

TEST_F(EngineTest, BadPromptsBecomeFailedRowsAndTheOthersGoOn) {
  write_prompts({R"({"prompt":"x"})", R"({"prompt":"x","temperature":-1})",
                 "{\"prompt\":\"" + std::string(900, 'y') + "\"}", R"({"prompt":"x"})"});
  AlphabetExecutor executor(2);
  EXPECT_TRUE(run(executor, 100));
  const auto rows = records();
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].text, "AB");
  EXPECT_EQ(rows[1].finish_reason, FinishReason::failed);
  EXPECT_EQ(rows[1].error, "bad_params: temperature -1 is below 0");
  EXPECT_EQ(rows[2].finish_reason, FinishReason::failed);
  EXPECT_EQ(rows[2].error.rfind("too_long: ", 0), 0u) << rows[2].error;
  EXPECT_EQ(rows[3].text, "AB");
  EXPECT_EQ(counters_.prompts_failed, 2u);
}

TEST_F(EngineTest, TemplateVariablesOfARowReachItsTemplate) {
  std::ofstream(work_.dir() / "chat.jinja") << "{{ messages[0].content }}{% if loud %}!!!{% endif %}";
  const auto tokenizer = tokenizer::Tokenizer::load(kModel);
  const auto chat = tokenizer::ChatTemplate::load(kModel, (work_.dir() / "chat.jinja").string(), 0);
  const Preparer preparer(tokenizer, chat, tokenizer.vocab_size());
  const auto prepared = [&](const std::string& extra) {
    io::Prompt prompt;
    prompt.form = io::PromptForm::messages;
    prompt.text = R"([{"role":"user","content":"hello"}])";
    prompt.extra_json = extra;
    return tokenizer.decode(preparer.prepare(std::move(prompt)).tokens, false);
  };
  EXPECT_EQ(prepared(""), "hello");
  EXPECT_EQ(prepared(R"({"chat_template_kwargs":{"loud":true}})"), "hello!!!");
  EXPECT_EQ(prepared(R"({"chat_template_kwargs":{"loud":false},"loud":true})"), "hello");
}

// What a template stumbles over is a matter of its row, also when it is a library that complains.
TEST_F(EngineTest, AMessageThatNoTemplateTakesFailsItsRow) {
  io::Prompt broken;
  broken.form = io::PromptForm::messages;
  broken.text = R"([{"role":"user","content":[{"type":"text","text":5}]}])";
  broken.extra_json = R"({"chat_template_kwargs":{"continue_final_message":true}})";
  const auto tokenizer = tokenizer::Tokenizer::load(kModel);
  const auto chat = tokenizer::ChatTemplate::load(kModel, "auto", 0);
  const Preparer preparer(tokenizer, chat, tokenizer.vocab_size());
  const PreparedPrompt prepared = preparer.prepare(std::move(broken));
  EXPECT_EQ(prepared.error.rfind("bad_template: ", 0), 0u) << prepared.error;
}

TEST_F(EngineTest, LogitsThatAreNotNumbersFailTheirRowAlone) {
  write_prompts({R"({"prompt":"x","seed":1})", R"({"prompt":"x","seed":2})"});
  AlphabetExecutor executor(2);
  executor.broken_key = model::random_key(0, 2, 0, 0);
  EXPECT_TRUE(run(executor));
  const auto rows = records();
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].text, "AB");
  EXPECT_EQ(rows[1].error, "nan_logits: at token 1");
  EXPECT_TRUE(rows[1].tokens.empty());
}

TEST_F(EngineTest, AStoppedJobContinuesWhereItWas) {
  write_prompts(std::vector<std::string>(40, R"({"prompt":"hello","n":2})"));
  AlphabetExecutor executor(5);
  int ticks = 0;
  EXPECT_FALSE(run(executor, 512, [&ticks] { return ++ticks < 60; }));
  const std::size_t before = records().size();
  EXPECT_GT(before, 0u);
  EXPECT_LT(before, 80u);
  EXPECT_TRUE(run(executor));
  EXPECT_EQ(records().size(), 80u);
  EXPECT_EQ(counters_.prompts_done, 80u - before);  // nothing was done twice
  EXPECT_EQ(io::JournalIndex(work_.journal(), 7).health().duplicates, 0u);
}

TEST_F(EngineTest, AnEmptyInputIsDoneAtOnce) {
  write_prompts({R"({"prompt":"x"})"});
  AlphabetExecutor executor(1);
  EXPECT_TRUE(run(executor));
  const int steps = executor.steps;
  EXPECT_TRUE(run(executor));  // all committed: no step at all
  EXPECT_EQ(executor.steps, steps);
}

}  // namespace
}  // namespace nightshift::runtime
