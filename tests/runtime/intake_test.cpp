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

TEST(IntakeTest, WhoeverComesFirstLeavesTheOthersTheirShare) {
  constexpr std::size_t kRows = 200;
  const auto world = Communicator::world();
  const auto replicas = static_cast<std::size_t>(world.size());
  const Workplace work("intake", world);
  work.write_prompts(std::vector<std::string>(kRows, R"({"prompt":"hello"})"));
  const io::PromptReader prompts(work.prompts(), {});
  const Committed committed = Committed::load(work.journal(), 7, kRows, world);
  const auto tokenizer = tokenizer::Tokenizer::load(kModel);
  const auto chat = tokenizer::ChatTemplate::load(kModel, "auto", 0);
  const Preparer preparer(tokenizer, chat, tokenizer.vocab_size());
  const WorkPlan plan = make_work_plan(prompts, world);
  parallel::WorkQueue queue(world, plan.units.size());
  Intake intake(prompts, preparer, committed, plan, queue, 256);

  std::size_t taken = 0;
  if (world.rank() == 0) {
    intake.claim(0);
    taken = take_all(intake).size();
    if (replicas == 1) {
      EXPECT_EQ(taken, kRows);
    } else {
      EXPECT_LE(taken, kRows / replicas);
      EXPECT_GE(taken, kRows / replicas / 2);
    }
    intake.claim(taken);  // all still under way: it waits for others to take theirs
    const std::size_t more = take_all(intake).size();
    EXPECT_LE(more, 16u);
    taken += more;
  }
  world.barrier();
  while (!intake.exhausted()) {  // what is taken is done at once
    intake.claim(0);
    if (intake.take()) {
      ++taken;
    } else {
      intake.wait();
    }
  }
  EXPECT_EQ(world.sum(static_cast<double>(taken)), static_cast<double>(kRows));
}

}  // namespace
}  // namespace nightshift::runtime
