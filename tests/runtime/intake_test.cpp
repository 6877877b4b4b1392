// SPDX-License-Identifier: Apache-2.0
// Every rank leads a replica of its own here.
#include "runtime/intake.h"

#include <gtest/gtest.h>

#include "runtime/support.h"

namespace nightshift::runtime {
namespace {

using parallel::Communicator;

// Everything that becomes ready without another claim.
std::vector<PromptRow> take_all(Intake& intake) {
  std::vector<PromptRow> rows;
  for (int quiet = 0; quiet < 40;) {  // times 5 ms
    const auto prompt = intake.take();
    if (prompt) rows.push_back(prompt->row);
    quiet = prompt ? 0 : quiet + 1;
    if (!prompt) intake.wait();
  }
  return rows;
}

// A job of `rows` prompts and this rank's intake.
struct Job {
  Job(std::size_t rows, const Communicator& world)
      : work("intake", world),
        prompts((work.write_prompts(std::vector<std::string>(rows, R"({"prompt":"hello"})")), work.prompts()),
                {}),
        committed(Committed::load(work.journal(), 7, rows, world)),
        plan(make_work_plan(prompts, world)),
        queue(world, plan.units.size()),
        intake(prompts, preparer, committed, plan, queue, 256) {}

  Workplace work;
  io::PromptReader prompts;
  Committed committed;
  tokenizer::Tokenizer tokenizer = tokenizer::Tokenizer::load(kModel);
  tokenizer::ChatTemplate chat = tokenizer::ChatTemplate::load(kModel, "auto", 0);
  Preparer preparer{tokenizer, chat, tokenizer.vocab_size()};
  WorkPlan plan;
  parallel::WorkQueue queue;
  Intake intake;
};

// Rows taken until nothing is left; what is taken is done at once.
std::size_t take_the_rest(Intake& intake) {
  std::size_t taken = 0;
  while (!intake.exhausted()) {
    intake.claim(0);
    if (intake.take()) {
      ++taken;
    } else {
      intake.wait();
    }
  }
  return taken;
}

TEST(IntakeTest, WhoeverComesFirstLeavesTheOthersTheirShare) {
  constexpr std::size_t kRows = 200;
  const auto world = Communicator::world();
  const auto replicas = static_cast<std::size_t>(world.size());
  Job job(kRows, world);

  std::size_t taken = 0;
  if (world.rank() == 0) {
    job.intake.claim(0);
    taken = take_all(job.intake).size();
    if (replicas == 1) {
      EXPECT_EQ(taken, kRows);
    } else {
      EXPECT_LE(taken, kRows / replicas);
      EXPECT_GE(taken, kRows / replicas / 2);
    }
    job.intake.claim(taken);  // all still under way: it waits for others to take theirs
    const std::size_t more = take_all(job.intake).size();
    EXPECT_LE(more, 16u);
    taken += more;
  }
  world.barrier();
  taken += take_the_rest(job.intake);
  EXPECT_EQ(world.sum(static_cast<double>(taken)), static_cast<double>(kRows));
}

TEST(IntakeTest, AJobOfFewPromptsIsSharedOutEvenly) {
  const auto world = Communicator::world();
  const auto replicas = static_cast<std::size_t>(world.size());
  const std::size_t rows = 4 * replicas;
  Job job(rows, world);

  std::size_t taken = 0;
  if (world.rank() == 0) {
    job.intake.claim(0);
    taken = take_all(job.intake).size();
    EXPECT_EQ(taken, 4u);
    job.intake.claim(taken);
    EXPECT_TRUE(replicas == 1 || take_all(job.intake).empty());
  }
  world.barrier();
  taken += take_the_rest(job.intake);
  EXPECT_EQ(world.sum(static_cast<double>(taken)), static_cast<double>(rows));
}

}  // namespace
}  // namespace nightshift::runtime
