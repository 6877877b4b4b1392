// SPDX-License-Identifier: Apache-2.0
#include "runtime/desk.h"

#include <algorithm>
#include <limits>

#include "runtime/engine.h"

namespace nightshift::runtime {

Desk::Desk(const Session& session, const Start& start, const parallel::Communicator& leaders, int ranks)
    : session_(session),
      start_(start),
      prompts_(session.prompts_file(start.job).string(), start.job.sampling),
      committed_(Committed::load(session.dir().string(), start.fingerprint, prompts_.rows(), leaders)),
      progress_(leaders, ranks, session, prompts_.rows() * static_cast<std::uint64_t>(start.job.sampling.n),
                committed_.samples(), committed_.failed(), start.number - 1),
      tokenizer_(tokenizer::Tokenizer::load(start.job.model.path)),
      chat_(
          tokenizer::ChatTemplate::load(start.job.model.path, start.job.model.chat_template, start.job_unix)),
      plan_(make_work_plan(prompts_, leaders)),
      queue_(leaders, plan_.units.size()) {
  committed_.keep_to(start.scope);
}

bool Desk::serve(Replica& replica, const ModelShape& shape, int journal_number, Heartbeat& heartbeat,
                 std::function<bool()> going) {
  constexpr auto kNoBound = std::numeric_limits<std::int64_t>::max();
  const Preparer preparer(tokenizer_, chat_, shape.vocab,
                          start_.job.job.max_answer_tokens.value_or(kNoBound));
  const auto ahead = static_cast<std::size_t>(
      std::clamp<std::int64_t>(start_.job.schedule.max_sequences.value_or(256), 16, 256));
  InWork in_work(session_.dir(), journal_number);
  Intake intake(prompts_, preparer, committed_, plan_, queue_, ahead,
                [&](PromptRow first, std::uint64_t count) {
                  heartbeat.beat();
                  in_work.reading(first, count);
                });
  session_.check_launcher();
  io::ResultJournal journal(session_.dir().string(), journal_number, start_.fingerprint);
  Emitter emitter(tokenizer_, journal, replica.counters(), &in_work);
  Engine engine(intake, replica, emitter, shape, start_.job.sampling.seed, start_.job.run.checkpoint_seconds,
                [&] {
                  progress_.tick(replica.counters(), emitter.active());
                  return going();
                });
  const bool complete = engine.run();
  journal.close();
  return complete;
}

}  // namespace nightshift::runtime
