// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/submission.h"

#include <algorithm>
#include <fstream>

#include "job/support.h"
#include "runtime/job/shell.h"

namespace nightshift::runtime {
namespace {

namespace fs = std::filesystem;
using test::message_of;

constexpr const char* kRun = "#!/bin/bash\nexec @NIGHTSHIFT@ run @ARGUMENTS@\n";

Submission submission() {
  Submission s;
  s.job_name = "night";
  s.program = "/opt/bin/nightshift";
  s.arguments = {"/data/job.toml", "--set", "sampling.max_tokens=64"};
  s.output = "/data/answers.h5";
  return s;
}

Submission array_of(std::vector<fs::path> inputs) {
  Submission s = submission();
  s.inputs = std::move(inputs);
  return s;
}

bool has(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

TEST(Render, FillsInProgramAndArguments) {
  EXPECT_EQ(render(kRun, "t", submission()),
            "#!/bin/bash\nexec /opt/bin/nightshift run /data/job.toml --set sampling.max_tokens=64\n");
}

TEST(Render, QuotesForTheShell) {
  Submission s = submission();
  s.arguments = {"/data/my job.toml", "--set", "job.name=\"it's $HOME\"", ""};
  EXPECT_NE(render(kRun, "t", s).find("run '/data/my job.toml' --set 'job.name=\"it'\\''s $HOME\"' ''\n"),
            std::string::npos);
}

TEST(Render, WhatIsFilledInIsNoTemplate) {
  Submission s = submission();
  s.arguments = {"@INPUTS@", "@WRONG@"};
  EXPECT_NE(render(kRun, "t", s).find("run @INPUTS@ @WRONG@\n"), std::string::npos);
}

TEST(Render, LeavesOtherAtSignsAlone) {
  const std::string text =
      std::string("#SBATCH --signal=B:USR1@120 --mail-user=me@site.org\n# @ @@ @x@ \"${all[@]}\" @\n") + kRun;
  const std::string script = render(text, "t", submission());
  EXPECT_EQ(script.substr(0, script.find("#!")), text.substr(0, text.find("#!")));
}

TEST(Render, RefusesWordsItDoesNotKnow) {
  const std::string why = message_of([] { render(std::string("@NODES@\n") + kRun, "ours", submission()); });
  EXPECT_NE(why.find("template ours: unknown @NODES@"), std::string::npos);
  EXPECT_NE(why.find("@OUTPUTS@"), std::string::npos) << "says which there are";
}

TEST(Render, RefusesATemplateThatRunsNothing) {
  EXPECT_NE(message_of([] {
              render("#!/bin/bash\n@NIGHTSHIFT@ --version\n", "t", submission());
            }).find("does not run the job"),
            std::string::npos);
}

TEST(Render, ArraysGetSettingsOfEveryTask) {
  const std::string text = std::string("inputs=(@INPUTS@)\noutputs=(@OUTPUTS@)\n") + kRun;
  const std::string script = render(text, "t", array_of({"/in/a.h5", "/in/b c.jsonl", "/in/7"}));
  EXPECT_NE(script.find(R"(inputs=('job.input="/in/a.h5"' 'job.input="/in/b c.jsonl"' 'job.input="/in/7"'))"),
            std::string::npos);
  EXPECT_NE(script.find(R"(outputs=('job.output="/data/answers-a.h5"')"), std::string::npos);
  EXPECT_NE(message_of([&] { render(text, "t", submission()); }).find("there is none"), std::string::npos);
  EXPECT_NE(message_of([] { render(kRun, "t", array_of({"/in/a.h5"})); }).find("--input is for arrays"),
            std::string::npos);
}

TEST(Render, EveryTemplateThatComesWithUs) {
  const fs::path folder = fs::path(NIGHTSHIFT_SOURCE_DIR) / "slurm";
  for (const std::string& name : template_names()) {
    std::ifstream in(find_template(name, folder));
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const Submission s = name == "array" ? array_of({"/in/a.h5", "/in/b.h5"}) : submission();
    const std::string script = render(text, name, s);
    EXPECT_NE(script.find("/opt/bin/nightshift run /data/job.toml"), std::string::npos) << name;
    EXPECT_NE(script.find("#SBATCH --signal=B:USR1@"), std::string::npos) << name;
    EXPECT_NE(script.find("#SBATCH --open-mode=append"), std::string::npos) << name;
  }
}

TEST(FindTemplate, NamesPathsAndTypingErrors) {
  const fs::path folder = fs::path(NIGHTSHIFT_SOURCE_DIR) / "slurm";
  EXPECT_EQ(find_template("multi", folder), folder / "multi.sbatch");
  EXPECT_EQ(find_template((folder / "single.sbatch").string(), "/nowhere"), folder / "single.sbatch");
  EXPECT_NE(message_of([&] { find_template("mutli", folder); }).find("did you mean multi"),
            std::string::npos);
  EXPECT_NE(message_of([&] { find_template("./none.sbatch", folder); }).find("no template ./none.sbatch"),
            std::string::npos);
  EXPECT_NE(message_of([&] { find_template("multi", "/nowhere"); }).find("share/nightshift/slurm"),
            std::string::npos);
}

TEST(ArrayOutputs, StandBesideTheOutputOfTheJob) {
  EXPECT_EQ(array_outputs("/data/answers.h5", {"/in/part-07.jsonl", "/in/x.y.h5"}),
            (std::vector<fs::path>{"/data/answers-part-07.h5", "/data/answers-x.y.h5"}));
  EXPECT_TRUE(array_outputs("/data/answers.h5", {}).empty());
}

TEST(ArrayOutputs, TwoTasksNeverWriteOneFile) {
  EXPECT_NE(message_of([] {
              array_outputs("/data/answers.h5", {"/a/part.h5", "/b/part.jsonl"});
            }).find("/data/answers-part.h5"),
            std::string::npos);
}

TEST(SbatchCommand, OptionsThenWordsOfTheUser) {
  Submission s = submission();
  s.options = {{"nodes", "4"}, {"time", "2:00:00"}};
  s.extra = {"--nodes=5", "--gres=gpu:4"};
  EXPECT_EQ(sbatch_command(s), (std::vector<std::string>{"sbatch", "--parsable", "--job-name=night",
                                                         "--output=/data/answers-%j.log", "--nodes=4",
                                                         "--time=2:00:00", "--nodes=5", "--gres=gpu:4"}))
      << "the last one counts";
}

TEST(SbatchCommand, ChainsRunUntilOneFinishes) {
  EXPECT_TRUE(has(sbatch_command(submission(), {"41"}), "--dependency=afternotok:41"));
  EXPECT_TRUE(has(sbatch_command(submission(), {"41", "42"}), "--dependency=afternotok:41:42"));
  EXPECT_TRUE(has(sbatch_command(submission(), {"41"}), "--kill-on-invalid-dep=yes"));
  EXPECT_FALSE(has(sbatch_command(submission()), "--kill-on-invalid-dep=yes"));
}

TEST(SbatchCommand, ArraysHaveATaskAndALogForEachInput) {
  const std::vector<std::string> words = sbatch_command(array_of({"/in/a.h5", "/in/b.h5", "/in/c.h5"}));
  EXPECT_TRUE(has(words, "--array=0-2"));
  EXPECT_TRUE(has(words, "--output=/data/answers-%A_%a.log"));
}

TEST(SbatchCommand, PercentSignsInNamesStayWhatTheyAre) {
  Submission s = submission();
  s.output = "/data/90%j/answers.h5";
  EXPECT_TRUE(has(sbatch_command(s), "--output=/data/90%%j/answers-%j.log"));
}

TEST(ParseJobId, WithAndWithoutCluster) {
  EXPECT_EQ(parse_job_id("1234\n"), "1234");
  EXPECT_EQ(parse_job_id("1234;east\n"), "1234");
  for (const char* printed : {"", "\n", "Submitted batch job 1234\n", ";east", "12x"})
    EXPECT_EQ(parse_job_id(printed), std::nullopt) << printed;
}

TEST(ShellQuoted, OneWordAsItIs) {
  EXPECT_EQ(shell_quoted("--set"), "--set");
  EXPECT_EQ(shell_quoted(""), "''");
  EXPECT_EQ(shell_quoted("a b"), "'a b'");
  EXPECT_EQ(shell_quoted("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_quoted("~x"), "'~x'");
}

}  // namespace
}  // namespace nightshift::runtime
