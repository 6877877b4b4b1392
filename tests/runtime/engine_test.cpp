// SPDX-License-Identifier: Apache-2.0
// The engine's loop over a made-up executor: every token is a function of the sequence's own tokens, so what
// must come out is known without a model.
#include "runtime/engine.h"

#include <gtest/gtest.h>

#include <thread>

#include "model/random.h"
#include "runtime/stop_signal.h"
#include "runtime/support.h"

namespace nightshift::runtime {
namespace {

class EngineTest : public ::testing::TestWithParam<int> {  // steps in flight at once
 protected:
  void write_prompts(const std::vector<std::string>& bodies) { work_.write_prompts(bodies); }
  std::vector<io::ResultRecord> records() const { return work_.records(); }
  bool run(
      AlphabetExecutor& executor, int max_context = 512, std::function<bool()> tick = [] { return true; },
      double checkpoint_seconds = 0) {
    counters_ = RunCounters();
    scheduler::Options options = small_options();
    options.max_context = max_context;
    options.pipeline_depth = GetParam();
    return lead(work_, world_, world_, executor, options, counters_, std::move(tick), checkpoint_seconds);
  }

  parallel::Communicator world_ = parallel::Communicator::world();
  Workplace work_{"engine"};
  RunCounters counters_;
};

TEST_P(EngineTest, EveryPromptIsAnsweredOnce) {
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

TEST_P(EngineTest, StopStringsCutTheTextAndLengthsEndIt) {
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
TEST_P(EngineTest, AWordThatEndsAnAnswerIsNoPartOfItsText) {
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

TEST_P(EngineTest, SeveralSamplesAndLogprobs) {
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

TEST_P(EngineTest, BadPromptsBecomeFailedRowsAndTheOthersGoOn) {
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

TEST_P(EngineTest, TemplateVariablesOfARowReachItsTemplate) {
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
TEST_P(EngineTest, AMessageThatNoTemplateTakesFailsItsRow) {
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

TEST_P(EngineTest, LogitsThatAreNotNumbersFailTheirRowAlone) {
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

TEST_P(EngineTest, AStoppedJobContinuesWhereItWas) {
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

// Whatever an answer's end depends on: stop strings that lie across a stop, least and most tokens,
// log-probabilities, several samples.
const std::vector<std::string> kAllKinds = {
    R"({"prompt":"x","stop":["GHI"]})", R"({"prompt":"x","stop":["B","NO"],"min_tokens":10})",
    R"({"prompt":"x","max_tokens":7})", R"({"prompt":"x","n":3,"logprobs":2})",
    R"({"prompt":"x","stop":["RSZ"]})", R"({"prompt":"x","stop_token_ids":[77],"min_tokens":3})",
};

void expect_same_answers(const std::vector<io::ResultRecord>& expected,
                         const std::vector<io::ResultRecord>& actual) {
  ASSERT_EQ(expected.size(), actual.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(expected[i].same_answer(actual[i]))
        << "row " << expected[i].row << ": " << expected[i].text << " / " << actual[i].text;
}

TEST_P(EngineTest, AStopInMidSequenceLosesNoToken) {
  write_prompts(kAllKinds);
  AlphabetExecutor executor(18);
  EXPECT_TRUE(run(executor));
  const auto calm = records();
  const std::uint64_t tokens = counters_.output_tokens;
  for (const int patience : {5, 11, 17}) {
    std::filesystem::remove_all(work_.journal());
    std::filesystem::create_directories(work_.journal());
    std::uint64_t generated = 0, taken_up = 0, saved = 0;
    bool complete = false;
    for (int starts = 0; !complete && starts < 100; ++starts) {
      int ticks = 0;
      complete = run(executor, 512, [&] { return counters_.output_tokens == 0 || ++ticks < patience; });
      generated += counters_.output_tokens;
      taken_up += counters_.taken_up_tokens;
      saved += counters_.checkpoint_tokens;
    }
    EXPECT_TRUE(complete);
    expect_same_answers(calm, records());
    EXPECT_EQ(generated, tokens);  // none twice
    EXPECT_GT(taken_up, 0u);
    EXPECT_LE(saved, tokens);  // none journalled twice
  }
}

TEST_P(EngineTest, ACrashLosesNoMoreThanTheLastCheckpointLacks) {
  write_prompts(kAllKinds);
  AlphabetExecutor executor(18);
  EXPECT_TRUE(run(executor));
  const auto calm = records();
  const std::uint64_t tokens = counters_.output_tokens;
  std::filesystem::remove_all(work_.journal());
  std::filesystem::create_directories(work_.journal());
  const auto crash = [&]() -> bool {
    if (counters_.output_tokens >= 30) throw Error("crash");
    return true;
  };
  AlphabetExecutor crashed(18), crashed_again(18);
  EXPECT_THROW(run(crashed, 512, crash), Error);
  EXPECT_EQ(counters_.checkpoints, 0u) << "none asked for";
  EXPECT_TRUE(io::JournalIndex(work_.journal(), 7).checkpoints().size() == 0);

  EXPECT_THROW(run(crashed_again, 512, crash, 1e-6), Error);  // a checkpoint at every pass of the loop
  EXPECT_GT(counters_.checkpoints, 3u);
  const std::uint64_t saved = counters_.checkpoint_tokens;
  EXPECT_TRUE(run(executor));
  expect_same_answers(calm, records());
  EXPECT_GT(counters_.taken_up_tokens, 0u);
  EXPECT_LE(counters_.taken_up_tokens, saved);
  EXPECT_LT(counters_.output_tokens, tokens);
}

// Checksums cannot tell what another program has written; a row must not fail for good because of it.
TEST_P(EngineTest, WhatDoesNotFitIsNotTakenUp) {
  write_prompts(std::vector<std::string>(4, R"({"prompt":"x","max_tokens":8})"));
  {
    io::ResultJournal journal(work_.journal(), 0, 7);
    io::ProgressRecord piece;
    piece.tokens = std::vector<TokenId>(8, 65);  // as many as there may be
    journal.append(piece);
    piece.row = 1;
    piece.tokens = {65, 1 << 20};  // no token of this model
    journal.append(piece);
    piece.row = 2;
    piece.tokens = {65};
    piece.logprobs = {-0.5F};  // nobody asked for them
    journal.append(piece);
    piece.row = 3;
    piece.logprobs.clear();
    journal.append(piece);  // fits
    journal.close();
  }
  AlphabetExecutor executor(5);
  EXPECT_TRUE(run(executor));
  const auto rows = records();
  ASSERT_EQ(rows.size(), 4u);
  for (const auto& row : rows) EXPECT_EQ(row.text, "ABCDE");
  EXPECT_EQ(counters_.taken_up_answers, 1u);
  EXPECT_EQ(counters_.taken_up_tokens, 1u);
}

TEST(StopTimeTest, LeavesTheMarginButNeverMoreThanHalfOfWhatIsLeft) {
  EXPECT_FALSE(StopTime(std::nullopt, 120).reached());
  EXPECT_FALSE(StopTime(1000.0, 120).reached());
  EXPECT_FALSE(StopTime(100.0, 120).reached());
  EXPECT_FALSE(StopTime(-5.0, 120).reached());
  const StopTime soon(0.2, 0.15);
  EXPECT_FALSE(soon.reached());
  std::this_thread::sleep_for(std::chrono::milliseconds(110));
  EXPECT_TRUE(soon.reached());
}

TEST_P(EngineTest, AnEmptyInputIsDoneAtOnce) {
  write_prompts({R"({"prompt":"x"})"});
  AlphabetExecutor executor(1);
  EXPECT_TRUE(run(executor));
  const int steps = executor.steps;
  EXPECT_TRUE(run(executor));  // all committed: no step at all
  EXPECT_EQ(executor.steps, steps);
}

TEST_P(EngineTest, AsManyStepsAreInFlightAsMayBe) {
  write_prompts(std::vector<std::string>(10, R"({"prompt":"x","max_tokens":8})"));
  AlphabetExecutor executor(18, GetParam());
  EXPECT_TRUE(run(executor));
  EXPECT_EQ(executor.most_in_flight, GetParam());
  EXPECT_EQ(records().size(), 10u);
  EXPECT_EQ(counters_.output_tokens, 80u);
}

INSTANTIATE_TEST_SUITE_P(InFlight, EngineTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace nightshift::runtime
