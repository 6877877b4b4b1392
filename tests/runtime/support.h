// SPDX-License-Identifier: Apache-2.0
// What the runtime's tests share: a folder with prompts and a journal, a made-up executor, and a leader of a
// replica.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <fstream>
#include <utility>

#include "core/check.h"
#include "runtime/engine.h"

namespace nightshift::runtime {

inline const std::filesystem::path kModel =
    std::filesystem::path(NIGHTSHIFT_SOURCE_DIR) / "inputs/models/tiny-tasks";
constexpr TokenId kEnd = 323;  // <|end|> of the tiny model

// "Answers" with the letters of the alphabet: position p of the output is letter p, `kEnd` after `length` of
// them.
class AlphabetExecutor : public scheduler::Executor {
 public:
  explicit AlphabetExecutor(int length, int depth = 1) : length_(length), depth_(depth) {}
  scheduler::Capacity capacity() const override { return {4096, 1024, 64, depth_, true}; }
  void submit(const BatchPlan& plan) override {
    StepResult result{plan.step, {}, 0.0};
    for (const PlannedSequence& s : plan.sequences) {
      if (s.samples) result.tokens.push_back(sample(s));
    }
    results_.push_back(std::move(result));
    most_in_flight = std::max(most_in_flight, static_cast<int>(results_.size()));
    ++steps;
  }
  StepResult collect() override {
    StepResult result = std::move(results_.front());
    results_.pop_front();
    return result;
  }

  int steps = 0;
  int most_in_flight = 0;
  std::uint64_t broken_key = 0;  // the sequence with this key has logits that are not numbers

 protected:
  virtual int length_of(const PlannedSequence&) const { return length_; }

 private:
  SampledToken sample(const PlannedSequence& s) const {
    const int position = s.output_position();
    SampledToken token{
        s.id, position >= length_of(s) ? kEnd : TokenId{65 + position % 26}, -0.5F, {}};  // 65: "A"
    if (s.random_key == broken_key) token.token = -1;
    for (std::int64_t k = 0; k < s.sampling->logprobs; ++k)
      token.top.push_back({static_cast<TokenId>(k), -1.0F});
    return token;
  }
  int length_;
  int depth_;
  std::deque<StepResult> results_;
};

// A folder for one test. It goes when its owner does.
class Workplace {
 public:
  explicit Workplace(const std::string& name)
      : dir_(std::filesystem::temp_directory_path() / fmt::format("nightshift-{}-{}", name, ::getpid())) {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(journal());
  }
  // The same one for all ranks. Collective, and so is its end.
  Workplace(const std::string& name, const parallel::Communicator& world) : world_(&world) {
    std::string dir;
    if (world.rank() == 0) dir = Workplace(name).keep();
    world.broadcast(dir);
    dir_ = dir;
  }
  ~Workplace() {
    if (world_ != nullptr) world_->barrier();
    if (world_ == nullptr || world_->rank() == 0) std::filesystem::remove_all(dir_);
  }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  const std::filesystem::path& dir() const { return dir_; }
  std::string journal() const { return (dir_ / "journal").string(); }
  std::string prompts() const { return (dir_ / "in.h5").string(); }

  // Prompts as batch lines, one body per row. Of a shared folder, by rank 0 for all.
  void write_prompts(const std::vector<std::string>& bodies) const {
    if (world_ == nullptr || world_->rank() == 0) write_here(bodies);
    if (world_ != nullptr) world_->barrier();
  }
  std::vector<io::ResultRecord> records() const {
    std::vector<io::ResultRecord> all;
    io::JournalIndex(journal(), 7).for_each([&](const io::ResultRecord& r) { all.push_back(r); });
    return all;
  }

 private:
  void write_here(const std::vector<std::string>& bodies) const {
    std::ofstream lines(dir_ / "in.jsonl");
    for (std::size_t i = 0; i < bodies.size(); ++i) {
      lines << R"({"custom_id":"q)" << i << R"(","method":"POST","url":"/v1/completions","body":)"
            << bodies[i] << "}\n";
    }
    lines.close();
    io::import_batch((dir_ / "in.jsonl").string(), prompts());
  }
  std::string keep() { return std::exchange(dir_, std::filesystem::path()).string(); }

  std::filesystem::path dir_;
  const parallel::Communicator* world_ = nullptr;
};

inline scheduler::Options small_options() {
  scheduler::Options options;
  options.token_budget = 64;
  options.max_sequences = 4;
  options.kv_blocks = 4096;
  options.max_context = 512;
  options.eos_ids = {kEnd};
  return options;
}

inline constexpr ModelShape kShape{1, 8, 8, 1, 1, 8, 384, true};

// The engine over the prompts of `work`, as the leader of `ranks`; collective over `leaders`.
inline bool lead(const Workplace& work, const parallel::Communicator& leaders,
                 const parallel::Communicator& ranks, scheduler::Executor& executor,
                 const scheduler::Options& options, RunCounters& counters, std::function<bool()> tick,
                 double checkpoint_seconds = 0) {
  SamplingParams defaults;
  defaults.max_tokens = 20;
  const io::PromptReader prompts(work.prompts(), defaults);
  const Committed committed = Committed::load(work.journal(), 7, prompts.rows(), leaders);
  const auto tokenizer = tokenizer::Tokenizer::load(kModel);
  const auto chat = tokenizer::ChatTemplate::load(kModel, "auto", 0);
  const Preparer preparer(tokenizer, chat, tokenizer.vocab_size());
  const WorkPlan plan = make_work_plan(prompts, leaders);
  parallel::WorkQueue queue(leaders, plan.units.size());
  Intake intake(prompts, preparer, committed, plan, queue, 8);
  scheduler::Scheduler scheduler(options);
  io::ResultJournal journal(work.journal(), leaders.rank(), 7);
  Emitter emitter(tokenizer, journal, counters);
  double now = 0;
  Replica replica(ranks, scheduler, executor, counters, [&now] { return now += 0.001; });
  Engine engine(intake, replica, emitter, kShape, 0, checkpoint_seconds, std::move(tick));
  const bool complete = engine.run();
  journal.close();
  return complete;
}

}  // namespace nightshift::runtime
