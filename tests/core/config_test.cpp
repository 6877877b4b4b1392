// SPDX-License-Identifier: Apache-2.0
#include "core/config.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/check.h"

namespace nightshift {
namespace {

namespace fs = std::filesystem;

class ConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / fmt::format("nightshift-config-{}", ::getpid());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  Job load(const std::string& text, const std::vector<std::string>& overrides = {}) const {
    std::ofstream(dir_ / "job.toml") << text;
    return load_job(dir_ / "job.toml", overrides);
  }
  std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) const {
    try {
      load(text, overrides);
    } catch (const BadInput& error) {
      EXPECT_EQ(error.exit(), Exit::bad_input);
      return error.what();
    }
    return "(accepted)";
  }

  const std::string minimal_ = "[job]\ninput = \"in.h5\"\noutput = \"out.h5\"\n[model]\npath = \"m\"\n";
  fs::path dir_;
};

TEST_F(ConfigTest, MinimalJobGetsDefaultsAndPathsBesideTheFile) {
  const Job job = load(minimal_);
  EXPECT_EQ(job.job.name, "job");
  EXPECT_EQ(job.job.input, dir_ / "in.h5");
  EXPECT_EQ(job.model.path, dir_ / "m");
  EXPECT_EQ(job.journal_dir(), dir_ / "out.h5.journal");
  EXPECT_FALSE(job.schedule.token_budget.has_value());
  EXPECT_FALSE(job.schedule.max_sequences);
  EXPECT_EQ(job.sampling.max_tokens, 256);
}

TEST_F(ConfigTest, EveryKindOfValueIsRead) {
  const Job job = load(
      minimal_ +
      "[schedule]\ntoken_budget = 512\nkv_memory = \"1.5GiB\"\nprefix_cache = false\n"
      "[sampling]\ntemperature = 0.7\nstop = [\"\\n\", \"END\"]\nstop_token_ids = [1, 2]\nignore_eos = true\n"
      "[run]\ndevice = \"cpu\"\nthreads = 3\n[parallel]\nshift = 256\n");
  EXPECT_EQ(job.schedule.token_budget, 512);
  EXPECT_EQ(job.schedule.kv_memory->value, 1610612736u);
  EXPECT_FALSE(job.schedule.prefix_cache);
  EXPECT_EQ(job.sampling.stop, (std::vector<std::string>{"\n", "END"}));
  EXPECT_EQ(job.sampling.stop_token_ids, (std::vector<TokenId>{1, 2}));
  EXPECT_TRUE(job.sampling.ignore_eos);
  EXPECT_EQ(job.run.threads, 3);
  EXPECT_EQ(job.parallel.shift, "256");
}

TEST_F(ConfigTest, ShiftTakesWordsAndTokenCounts) {
  for (const char* shift : {"auto", "never", "always", "0", "999999999", "random:7"})
    EXPECT_EQ(load(minimal_, {std::string("parallel.shift=") + shift}).parallel.shift, shift);
  EXPECT_EQ(load(minimal_ + "[run]\ntrace = \"t.json\"\n").run.trace, dir_ / "t.json");
}

TEST_F(ConfigTest, TemplatesAreFilesBesideTheJobFileUnlessAWord) {
  EXPECT_EQ(load(minimal_ + "chat_template = \"chat.jinja\"\n").model.chat_template, dir_ / "chat.jinja");
  EXPECT_EQ(load(minimal_ + "chat_template = \"none\"\n").model.chat_template, "none");
}

TEST_F(ConfigTest, RefusalsNameFileLineAndRemedy) {
  const auto expect = [&](const std::string& text, const std::vector<std::string>& parts) {
    const std::string message = refusal(text);
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << message << " lacks " << part;
  };
  expect(minimal_ + "[schedule]\nmax_sequence = 4\n",
         {"job.toml:7", "schedule.max_sequence", "did you mean max_sequences?"});
  expect(minimal_ + "[shedule]\nmax_sequences = 4\n", {"job.toml:6", "[shedule]", "did you mean schedule?"});
  expect(minimal_ + "[schedule]\nmax_sequences = \"many\"\n", {"job.toml:7", "it takes an integer"});
  expect(minimal_ + "[schedule]\nmax_sequences = 0\n", {"from 1"});
  expect(minimal_ + "[schedule]\nmax_sequences = 5000000000\n", {"from 1 up to 1000000"});
  expect(minimal_ + "[schedule]\nmax_sequences = 4.5\n", {"it takes an integer"});
  expect(minimal_ + "[schedule]\nkv_memory = \"lots\"\n", {"12GiB"});
  expect(minimal_ + "[run]\ndevice = \"tpu\"\n", {"one of auto, cpu, cuda"});
  expect(minimal_ + "[sampling]\ntop_p = 1.5\n", {"job.toml:7", "top_p 1.5 is above 1"});
  expect(minimal_ + "[sampling]\ntemprature = 1.0\n", {"did you mean temperature?"});
  expect(minimal_ + "[sampling]\nignore_eos = 1\n", {"ignore_eos 1 is not true or false"});
  for (const char* shift :
       {"\"sometimes\"", "\"\"", "-1", "12345678901", "\"random:\"", "\"random:x\"", "\"1e3\""})
    expect(minimal_ + "[parallel]\nshift = " + shift + "\n", {"auto, never, always, or a token count"});
  expect(minimal_ + "[run]\ntrace = \"trace.txt\"\n", {"run.trace", "name a .json file"});
  expect("[job]\ninput = \"a\"\n", {"job.output is missing"});
  expect("[job]\ninput = \"a.h5\"\noutput = \"a.h5\"\n[model]\npath=\"m\"\n", {"the same file"});
  expect("[job\n", {"job.toml:1", "not valid TOML"});
}

TEST_F(ConfigTest, OverridesWinAndTakeBareWords) {
  const Job job = load(
      minimal_, {"sampling.max_tokens=7", "run.device=cpu", "schedule.token_budget=auto", "job.name=x y"});
  EXPECT_EQ(job.sampling.max_tokens, 7);
  EXPECT_EQ(job.run.device, "cpu");
  EXPECT_EQ(job.job.name, "x y");
  EXPECT_NE(refusal(minimal_, {"max_tokens=7"}).find("section.key=value"), std::string::npos);
  EXPECT_NE(refusal(minimal_, {"sampling.max_token=7"}).find("did you mean max_tokens?"), std::string::npos);
}

TEST_F(ConfigTest, JsonRoundTripKeepsEveryKey) {
  const Job job = load(
      minimal_ + "[schedule]\nkv_memory = 4096\n[sampling]\nseed = 9\nstop = [\"x\"]\n[run]\nthreads = 2\n");
  EXPECT_EQ(job_to_json(job_from_json(job_to_json(job))), job_to_json(job));
}

TEST_F(ConfigTest, PrintedJobIsAJobFileThatMeansTheSame) {
  const Job job = load(minimal_ + "[sampling]\nstop = [\"a\", \"b\"]\ntemperature = 0.25\n");
  std::ofstream(dir_ / "job.toml") << job_to_toml(job);
  EXPECT_EQ(job_to_json(load_job(dir_ / "job.toml")), job_to_json(job));
}

TEST(JobKeys, EveryKeyHasHelpAndADefault) {
  const auto keys = job_keys();
  EXPECT_GT(keys.size(), 30u);
  for (const JobKey& key : keys) {
    EXPECT_FALSE(key.help.empty()) << key.name;
    EXPECT_FALSE(key.value.empty()) << key.name;
    EXPECT_FALSE(key.kind.empty()) << key.name;
  }
}

}  // namespace
}  // namespace nightshift
