// SPDX-License-Identifier: Apache-2.0
// Prompts, ready to run, ahead of need. The engine's thread claims units (claiming is MPI); a thread of its
// own reads the rows and turns them into tokens.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "io/io.h"
#include "parallel/parallel.h"
#include "runtime/committed.h"
#include "tokenizer/tokenizer.h"

namespace nightshift::runtime {

// A prompt as the scheduler wants it.
struct PreparedPrompt {
  PromptRow row = 0;
  std::uint64_t id_key = 0;  // of the prompt's id: keys its random numbers
  std::vector<TokenId> tokens;
  SamplingParams params;
  std::vector<std::int32_t> samples;      // which of 0 .. n-1 are still to do
  std::vector<io::ProgressRecord> begun;  // of these, what earlier starts have generated
  std::string error;  // reason of a row that cannot run; samples then counts the rows it fills

  const io::ProgressRecord* begun_of(std::int32_t sample) const;  // null: begins at its first token
};

// Text or messages to tokens, or the reason why not. Const and free of state: any thread.
class Preparer {
 public:
  // `longest_answer`: bounds max_tokens, whatever a prompt asks for.
  Preparer(const tokenizer::Tokenizer& tokenizer, const tokenizer::ChatTemplate& chat, int vocab,
           std::int64_t longest_answer = std::numeric_limits<std::int64_t>::max())
      : tokenizer_(tokenizer), chat_(chat), vocab_(vocab), longest_answer_(longest_answer) {}

  PreparedPrompt prepare(io::Prompt&& prompt) const;
  // Keeps of what earlier starts have generated what this prompt's samples can go on from.
  void take_up(PreparedPrompt& prompt, std::vector<io::ProgressRecord>&& begun) const;

 private:
  std::vector<TokenId> encode(const io::Prompt& prompt) const;

  const tokenizer::Tokenizer& tokenizer_;
  const tokenizer::ChatTemplate& chat_;
  int vocab_;
  std::int64_t longest_answer_;
};

// Which units there are and in which order they are claimed: the same on every leader.
struct WorkPlan {
  std::vector<parallel::Unit> units;
  std::vector<std::uint32_t> order;
  int replicas = 1;
};
// Rank 0 looks at the input's lengths, where they are known, and tells the others. Collective over the
// leaders of the replicas.
WorkPlan make_work_plan(const io::PromptReader& prompts, const parallel::Communicator& leaders);

class Intake {
 public:
  // Which rows are being read or tokenized from now on; a count of 0: none. Called on the intake's thread.
  using Reading = std::function<void(PromptRow first, std::uint64_t count)>;
  // `ahead`: prompts kept ready. All references must outlive the intake.
  Intake(const io::PromptReader& prompts, const Preparer& preparer, const Committed& committed,
         const WorkPlan& plan, parallel::WorkQueue& queue, std::size_t ahead, Reading reading = {});
  ~Intake();

  // Claims units as far as they are needed soon, and as far as this replica's share goes. `in_scheduler`:
  // answers under way there. Engine's thread.
  void claim(std::size_t in_scheduler);
  std::optional<PreparedPrompt> take();  // the next prompt that is ready, if any
  bool exhausted() const;                // nothing ready, nothing claimed, nothing left to claim
  void wait() const;                     // sleeps until something is ready or exhausted, a few ms at most

 private:
  double share() const;
  void read_ahead();
  void prepare_unit(const parallel::Unit& unit);
  std::vector<PreparedPrompt> prepare_rows(PromptRow first, std::uint64_t count) const;
  void reading(PromptRow first, std::uint64_t count) const;

  const io::PromptReader& prompts_;
  const Preparer& preparer_;
  const Committed& committed_;
  const WorkPlan& plan_;
  parallel::WorkQueue& queue_;
  const std::size_t ahead_;
  const Reading reading_;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::deque<parallel::Unit> claimed_;  // not read yet
  std::uint64_t rows_in_work_ = 0;      // of claimed units, not yet in ready_
  std::deque<PreparedPrompt> ready_;
  std::vector<std::uint64_t> rows_behind_;  // [place]: rows to do in the units behind it
  std::uint64_t rows_left_ = 0;             // to do, and not claimed by any replica when this one last looked
  double least_share_ = 0.0;                // see share()
  double prompts_taken_ = 0, answers_taken_ = 0;
  std::exception_ptr failure_;
  bool all_claimed_ = false;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when everything above exists
};

}  // namespace nightshift::runtime
