// SPDX-License-Identifier: Apache-2.0
// The engine's loop over a made-up executor: every token is a function of the sequence's own tokens, so what
// must come out is known without a model.
#include "runtime/engine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/check.h"
#include "model/random.h"

namespace nightshift::runtime {
namespace {

namespace fs = std::filesystem;

const fs::path kModel = fs::path(NIGHTSHIFT_SOURCE_DIR) / "inputs/models/tiny-tasks";
constexpr TokenId kEnd = 323;  // <|end|> of the tiny model

// "Answers" with the letters of the alphabet: position p of the output is letter p, `kEnd` after `length` of
// them.
class AlphabetExecutor final : public scheduler::Executor {
 public:
  explicit AlphabetExecutor(int length) : length_(length) {}
  scheduler::Capacity capacity() const override { return {4096, 1024, 64, 1, true}; }
  void submit(const BatchPlan& plan) override {
    result_ = StepResult{plan.step, {}, 0.0};
    for (const PlannedSequence& s : plan.sequences) {
      if (s.samples) result_.tokens.push_back(sample(s));
    }
    ++steps;
  }
  StepResult collect() override { return std::move(result_); }

  int steps = 0;
  std::uint64_t broken_key = 0;  // the sequence with this key has logits that are not numbers

 private:
  SampledToken sample(const PlannedSequence& s) const {
    const int position = s.output_position();
    SampledToken token{
        s.id, position >= length_ ? kEnd : TokenId{65 + position}, -0.5F, {}};  // byte token of 'b' + ...
    if (s.random_key == broken_key) token.token = -1;
    for (std::int64_t k = 0; k < s.sampling->logprobs; ++k)
      token.top.push_back({static_cast<TokenId>(k), -1.0F});
    return token;
  }
  int length_;
  StepResult result_;
};

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / fmt::format("nightshift-engine-{}", ::getpid());
    fs::remove_all(dir_);
    fs::create_directories(dir_ / "journal");
  }
  void TearDown() override { fs::remove_all(dir_); }

  // Prompts as batch lines, one body per row.
  void write_prompts(const std::vector<std::string>& bodies) {
    std::ofstream lines(dir_ / "in.jsonl");
    for (std::size_t i = 0; i < bodies.size(); ++i) {
      lines << R"({"custom_id":"q)" << i << R"(","method":"POST","url":"/v1/completions","body":)"
            << bodies[i] << "}\n";
    }
    lines.close();
    io::import_batch((dir_ / "in.jsonl").string(), (dir_ / "in.h5").string());
  }

  bool run(
      AlphabetExecutor& executor, int max_context = 512, std::function<bool()> tick = [] { return true; }) {
    SamplingParams defaults;
    defaults.max_tokens = 20;
    const io::PromptReader prompts((dir_ / "in.h5").string(), defaults);
    const Committed committed = Committed::load((dir_ / "journal").string(), 7, prompts.rows(), world_);
    const auto tokenizer = tokenizer::Tokenizer::load(kModel);
    const auto chat = tokenizer::ChatTemplate::load(kModel, "auto", 0);
    const Preparer preparer(tokenizer, chat, tokenizer.vocab_size());
    const WorkPlan plan = make_work_plan(prompts, world_);
    parallel::WorkQueue queue(world_, plan.units.size());
    Intake intake(prompts, preparer, committed, plan, queue, 8);
    scheduler::Options options;
    options.token_budget = 64;
    options.max_sequences = 4;
    options.kv_blocks = 4096;
    options.max_context = max_context;
    options.eos_ids = {kEnd};
    scheduler::Scheduler scheduler(options);
    io::ResultJournal journal((dir_ / "journal").string(), 0, 7);
    counters_ = RunCounters();
    Emitter emitter(tokenizer, journal, counters_);
    double now = 0;
    Engine engine(
        intake, scheduler, executor, emitter, counters_, ModelShape{1, 8, 8, 1, 1, 8, 384, true}, 0,
        [&now] { return now += 0.001; }, std::move(tick));
    const bool complete = engine.run();
    journal.close();
    return complete;
  }

  std::vector<io::ResultRecord> records() const {
    std::vector<io::ResultRecord> all;
    io::JournalIndex((dir_ / "journal").string(), 7).for_each([&](const io::ResultRecord& r) {
      all.push_back(r);
    });
    return all;
  }

  parallel::Communicator world_ = parallel::Communicator::world();
  fs::path dir_;
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
  std::ofstream(dir_ / "chat.jinja") << "{{ messages[0].content }}{% if loud %}!!!{% endif %}";
  const auto tokenizer = tokenizer::Tokenizer::load(kModel);
  const auto chat = tokenizer::ChatTemplate::load(kModel, (dir_ / "chat.jinja").string(), 0);
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
  EXPECT_EQ(io::JournalIndex((dir_ / "journal").string(), 7).health().duplicates, 0u);
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
