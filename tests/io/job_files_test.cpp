// SPDX-License-Identifier: Apache-2.0
// Manifest, lock and inspection: the files around a job.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "io/files.h"
#include "io/support.h"

namespace nightshift::io {
namespace {

using test::message_of;
using test::Scratch;

Manifest make_manifest() {
  Manifest m;
  m.input_path = "prompts.h5";
  m.input_digest = "xxh3-1";
  m.model_digest = "m1";
  m.sampling_digest = "s1";
  m.job_json = R"({"model":{"path":"/m"},"sampling":{"seed":0,"temperature":0.0},"run":{"threads":4}})";
  return m;
}

TEST(Manifest, IsReadBackAsWritten) {
  const Scratch s;
  const std::string directory = journal_directory(s.path("answers.h5"));
  EXPECT_FALSE(read_manifest(directory));
  write_manifest(directory, make_manifest());
  const std::optional<Manifest> back = read_manifest(directory);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->fingerprint(), make_manifest().fingerprint());
  EXPECT_EQ(back->input_path, "prompts.h5");
  EXPECT_EQ(nlohmann::json::parse(back->job_json), nlohmann::json::parse(make_manifest().job_json));
  EXPECT_EQ(
      std::distance(std::filesystem::directory_iterator(directory), std::filesystem::directory_iterator()),
      1);
}

TEST(Manifest, BrokenOnesAreRefusedWithARemedy) {
  const Scratch s;
  for (const char* content : {"", "{", "[]", "{}", R"({"version": "x"})"}) {
    test::spill(s.path("manifest.json"), content);
    EXPECT_NE(message_of([&] { read_manifest(s.root()); }).find("--restart"), std::string::npos) << content;
  }
}

TEST(Manifest, OnlyWhatChangesAnswersStandsAgainstResuming) {
  const Manifest before = make_manifest();
  Manifest now = before;
  now.input_path = "elsewhere/prompts.h5";
  now.job_json = R"({"model":{"path":"/n"},"sampling":{"seed":0,"temperature":0.0},"run":{"threads":8}})";
  EXPECT_TRUE(resume_conflicts(before, now).empty());
  EXPECT_NO_THROW(check_resumable(before, now));
  EXPECT_EQ(before.fingerprint(), now.fingerprint());

  now.sampling_digest = "s2";
  now.job_json = R"({"model":{"path":"/n"},"sampling":{"temperature":0.7,"top_k":5}})";
  EXPECT_EQ(resume_conflicts(before, now).at(0),
            "sampling: s1 -> s2 (sampling.seed: 0 -> null; sampling.temperature: 0.0 -> 0.7; sampling.top_k: "
            "null -> 5)");
  now.input_digest = "xxh3-2";
  now.model_digest = "m2";
  EXPECT_EQ(resume_conflicts(before, now).size(), 3u);
  const std::string message = message_of([&] { check_resumable(before, now); });
  for (const char* part :
       {"input: prompts.h5 xxh3-1", "model: m1 -> m2 (model.path: \"/m\" -> \"/n\")", "--restart"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  EXPECT_NE(before.fingerprint(), now.fingerprint());
}

TEST(Lock, ASecondLauncherIsRefusedByName) {
  const Scratch s;
  {
    const JobLock lock(s.root());
    const std::string message = message_of([&] { JobLock again(s.root()); });
    EXPECT_NE(message.find(fmt::format("in use by process {} on {}", ::getpid(), host_name())),
              std::string::npos)
        << message;
  }
  EXPECT_FALSE(std::filesystem::exists(s.path("lock")));
  EXPECT_NO_THROW(JobLock(s.root()));
}

TEST(Lock, EndsWithItsHolder) {
  const Scratch s;
  int channel[2];
  ASSERT_EQ(::pipe(channel), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const JobLock lock(s.root());
    if (::write(channel[1], "x", 1) != 1) ::_exit(1);
    ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(channel[0], &byte, 1), 1);
  EXPECT_THROW(JobLock(s.root()), BadInput);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(std::filesystem::exists(s.path("lock")));
  EXPECT_NO_THROW(JobLock(s.root()));
}

TEST(Lock, AnotherHostsLockCountsUntilItFallsSilent) {
  const Scratch s;
  const auto left_behind = [&] {
    test::spill(s.path("lock"), R"({"host":"elsewhere","pid":1,"boot":"b","nonce":"n"})");
  };
  left_behind();
  std::thread holder([&] {  // alive: touches its lock
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    left_behind();
  });
  const std::string message = message_of([&] { JobLock lock(s.root(), {.stale_seconds = 10}); });
  EXPECT_NE(message.find("in use by process 1 on elsewhere"), std::string::npos) << message;
  holder.join();
  left_behind();  // killed a moment ago: waited for, not refused
  const auto begin = std::chrono::steady_clock::now();
  {
    const JobLock lock(s.root(), {.stale_seconds = 0.4, .settle_seconds = 0.05});
    EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(350));
    EXPECT_EQ(holder_nonce(s.root()), lock.nonce());
  }
  EXPECT_EQ(holder_nonce(s.root()), "");
  left_behind();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  std::thread rival([&] {  // takes it in the same moment, on a file system whose locks do not reach us
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    test::spill(s.path("lock"), R"({"host":"third","pid":2,"boot":"b","nonce":"m"})");
  });
  EXPECT_NE(message_of([&] {
              JobLock lock(s.root(), {.stale_seconds = 0.2, .settle_seconds = 0.6});
            }).find("third"),
            std::string::npos);
  rival.join();
}

TEST(Lock, NoticesThatItWasTakenAndBeatsUntilThen) {
  const Scratch s;
  const JobLock lock(s.root(), {.heartbeat_seconds = 0.02});
  const auto first = std::filesystem::last_write_time(s.path("lock"));
  const auto until = [](const auto& condition) {
    for (int i = 0; i < 500 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return condition();
  };
  EXPECT_TRUE(until([&] { return std::filesystem::last_write_time(s.path("lock")) > first; }));
  EXPECT_FALSE(lock.lost());
  test::spill(s.path("lock"), R"({"host":"elsewhere","pid":1,"boot":"b","nonce":"n"})");
  EXPECT_TRUE(until([&] { return lock.lost(); }));
}

TEST(Lock, OfManyAtOnceOneWins) {
  const Scratch s;
  int channel[2];
  ASSERT_EQ(::pipe(channel), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 16; ++i) {
    children.push_back(::fork());
    if (children.back() != 0) continue;
    char verdict = 'n';
    try {
      const JobLock lock(s.root());
      verdict = 'y';
      if (::write(channel[1], &verdict, 1) != 1) ::_exit(1);
      ::pause();
    } catch (const BadInput&) {
      if (::write(channel[1], &verdict, 1) != 1) ::_exit(1);
    }
    ::_exit(0);
  }
  int winners = 0;
  for (int i = 0; i < 16; ++i) {
    char verdict = 0;
    ASSERT_EQ(::read(channel[0], &verdict, 1), 1);
    winners += verdict == 'y';
  }
  EXPECT_EQ(winners, 1);
  for (const pid_t child : children) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
}

TEST(Files, AtomicWritesLeaveNothingBehind) {
  const Scratch s;
  write_file_atomically(s.path("f"), "one");
  write_file_atomically(s.path("f"), "two");
  EXPECT_EQ(test::slurp(s.path("f")), "two");
  EXPECT_EQ(
      std::distance(std::filesystem::directory_iterator(s.root()), std::filesystem::directory_iterator()), 1);
  EXPECT_THROW(write_file_atomically(s.path("no/such/f"), "x"), Error);
  EXPECT_THROW(read_whole_file(s.path("f"), 2), Error);
  const FileHandle full("/dev/full", O_WRONLY);
  EXPECT_NE(message_of([&] { full.write_at(0, std::string_view("x")); }).find("No space left"),
            std::string::npos);
}

TEST(Inspect, TellsWhatIsInAFile) {
  const Scratch s;
  const std::string path = test::write_text_prompts(s, 12, true);
  EXPECT_EQ(file_format(path), "prompts/1");
  const Inspection prompts = inspect_file(path);
  EXPECT_EQ(prompts.rows, 12u);
  EXPECT_EQ(prompts.form, "text");
  ASSERT_EQ(prompts.columns.size(), 2u);
  EXPECT_EQ(prompts.columns[0].path, "/prompts/id");
  EXPECT_EQ(prompts.columns[0].type, "string (variable, UTF-8)");

  std::filesystem::create_directory(s.path("j"));
  ResultJournal journal(s.path("j"), 0, 1);
  std::uint64_t tokens = 0;
  for (PromptRow row = 0; row < 12; ++row) {
    journal.append(test::make_record(row));
    tokens += test::make_record(row).tokens.size();
  }
  journal.close();
  write_results(s.path("r.h5"), PromptReader(path), JournalIndex(s.path("j"), 1));
  const Inspection results = inspect_file(s.path("r.h5"));
  EXPECT_EQ(results.format, "results/1");
  EXPECT_EQ(results.rows, 12u);
  ASSERT_TRUE(results.lengths);
  EXPECT_EQ(results.lengths->total, tokens);
  EXPECT_EQ(results.lengths->min, 0u);
  EXPECT_EQ(results.finish_reasons.at(2), (std::pair<std::string, std::uint64_t>("failed", 2)));
  const nlohmann::json json = nlohmann::json::parse(to_json(results));
  EXPECT_EQ(json["tokens_per_row"]["total"], tokens);
  EXPECT_EQ(json["attributes"]["nightshift_format"], "results/1");
  EXPECT_NE(
      to_text(results).find("/results/finish_reason     enum (stop, length, failed, cancelled, repetition)"),
      std::string::npos)
      << to_text(results);
  test::spill(s.path("x.h5"), "no");
  EXPECT_THROW(inspect_file(s.path("x.h5")), BadInput);
}

}  // namespace
}  // namespace nightshift::io
