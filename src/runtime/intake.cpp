// SPDX-License-Identifier: Apache-2.0
#include "runtime/intake.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

constexpr std::uint64_t kLargestUnit = 256;    // rows: some seconds of work, some hundred kB of text
constexpr std::uint64_t kUnitsPerReplica = 8;  // at least, so that a small job is shared out evenly
constexpr double kLeastShare = 16;             // answers: fewer at once would leave the machine half used
constexpr std::uint64_t kReadRows =
    32;  // rows read at once: the engine is fed early, reads stay large enough

// A 64-bit key of an id: distinct ids draw different random numbers, wherever their rows are.
std::uint64_t key_of(const io::RowId& id) {
  if (const auto* number = std::get_if<std::int64_t>(&id)) return static_cast<std::uint64_t>(*number);
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : std::get<std::string>(id))
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// What a row brings for its template, as the template sees it: `chat_template_kwargs` are variables of their
// own, and the last word, as in vLLM.
std::string template_arguments(const std::string& extra_json) {
  if (extra_json.empty()) return {};
  auto arguments = nlohmann::ordered_json::parse(extra_json);
  const auto found = arguments.find("chat_template_kwargs");
  if (found == arguments.end()) return extra_json;
  if (!found->is_object()) throw Error("chat_template_kwargs is not a JSON object");
  const nlohmann::ordered_json variables = *found;
  arguments.erase(found);
  arguments.update(variables);
  return arguments.dump();
}

}  // namespace

std::vector<TokenId> Preparer::encode(const io::Prompt& prompt) const {
  switch (prompt.form) {
    case io::PromptForm::tokens:
      return prompt.tokens;
    case io::PromptForm::text:
      return tokenizer_.encode(prompt.text, true);
    case io::PromptForm::messages:
      // The template writes the beginning-of-sequence token itself: adding it again is the classic silent
      // error.
      return tokenizer_.encode(chat_.render(prompt.text, template_arguments(prompt.extra_json)), false);
  }
  return {};
}

PreparedPrompt Preparer::prepare(io::Prompt&& prompt) const {
  PreparedPrompt out;
  out.row = prompt.row;
  out.id_key = key_of(prompt.id);
  out.error = std::move(prompt.error);
  if (out.error.empty()) {
    try {
      out.tokens = encode(prompt);
    } catch (const tokenizer::InvalidUtf8& error) {
      out.error = fmt::format("invalid_utf8: byte {}", error.byte_offset());
    } catch (const Error& error) {
      out.error = fmt::format("bad_template: {}", error.summary());
    } catch (const std::bad_alloc&) {
      throw;  // says something about the machine, not about the prompt
    } catch (const std::exception& error) {
      out.error = fmt::format("bad_template: {}", error.what());
    }
  }
  const auto alien =
      std::find_if(out.tokens.begin(), out.tokens.end(), [&](TokenId t) { return t < 0 || t >= vocab_; });
  if (alien != out.tokens.end()) {
    out.error = fmt::format("bad_tokens: id {} is outside the vocabulary of {}", *alien, vocab_);
  }
  if (out.error.empty() && out.tokens.empty()) out.error = "empty_prompt: no tokens";
  out.params = std::move(prompt.params);
  out.params.max_tokens = std::min(out.params.max_tokens, longest_answer_);
  return out;
}

const io::ProgressRecord* PreparedPrompt::begun_of(std::int32_t sample) const {
  const auto found =
      std::find_if(begun.begin(), begun.end(), [&](const auto& record) { return record.sample == sample; });
  return found == begun.end() ? nullptr : &*found;
}

// The journal is of the same job, so everything fits, unless storage has played tricks that no checksum
// finds: then beginning anew is right, and failing would be for good.
void Preparer::take_up(PreparedPrompt& prompt, std::vector<io::ProgressRecord>&& begun) const {
  const SamplingParams& params = prompt.params;
  const auto is_token = [&](TokenId t) { return t >= 0 && t < vocab_; };
  const auto fits = [&](const io::ProgressRecord& r) {
    return std::find(prompt.samples.begin(), prompt.samples.end(), r.sample) != prompt.samples.end() &&
           static_cast<std::int64_t>(r.tokens.size()) < params.max_tokens && r.top_k == params.logprobs &&
           r.logprobs.empty() == (params.logprobs == 0) &&
           std::all_of(r.tokens.begin(), r.tokens.end(), is_token);
  };
  std::erase_if(begun, [&](const io::ProgressRecord& r) { return !fits(r); });
  prompt.begun = std::move(begun);
}

WorkPlan make_work_plan(const io::PromptReader& prompts, const parallel::Communicator& leaders) {
  WorkPlan plan;
  plan.replicas = leaders.size();
  const std::uint64_t rows = prompts.rows();
  const auto share = rows / (kUnitsPerReplica * static_cast<std::uint64_t>(plan.replicas));
  const std::uint64_t largest = std::clamp<std::uint64_t>(share, 1, kLargestUnit);
  plan.units = parallel::cut_units(rows, plan.replicas, largest);
  std::string text;
  if (leaders.rank() == 0) {
    // Costs are known per `largest` rows; the small units of the end keep their place there.
    std::vector<std::uint64_t> costs = prompts.unit_costs(largest).value_or(std::vector<std::uint64_t>());
    if (!costs.empty()) costs.resize(plan.units.size());
    const std::vector<std::uint32_t> order = parallel::claim_order(plan.units, costs);
    text.assign(reinterpret_cast<const char*>(order.data()), order.size() * sizeof(order[0]));
  }
  leaders.broadcast(text);
  plan.order.resize(text.size() / sizeof(plan.order[0]));
  std::copy(text.begin(), text.end(), reinterpret_cast<char*>(plan.order.data()));
  return plan;
}

Intake::Intake(const io::PromptReader& prompts, const Preparer& preparer, const Committed& committed,
               const WorkPlan& plan, parallel::WorkQueue& queue, std::size_t ahead, Reading reading)
    : prompts_(prompts),
      preparer_(preparer),
      committed_(committed),
      plan_(plan),
      queue_(queue),
      ahead_(ahead),
      reading_(std::move(reading)),
      rows_behind_(plan.order.size()) {
  for (std::size_t place = plan.order.size(); place-- > 0;) {
    rows_behind_[place] = rows_left_;
    const parallel::Unit& unit = plan.units[plan.order[place]];
    for (PromptRow row = unit.first; row < unit.first + unit.count; ++row) rows_left_ += !committed.row(row);
  }
  const double even_part = std::ceil(static_cast<double>(rows_left_) / plan_.replicas);
  least_share_ = std::clamp(even_part, 1.0, kLeastShare);  // a job of few long prompts has work for all, too
  thread_ = std::thread([this] { read_ahead(); });
}

Intake::~Intake() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Intake::claim(std::size_t in_scheduler) {
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      const auto here = ready_.size() + rows_in_work_;
      if (all_claimed_ || here >= ahead_ || static_cast<double>(here + in_scheduler) >= share()) return;
    }
    const auto place = queue_.claim();
    const std::lock_guard lock(mutex_);
    rows_left_ = place ? rows_behind_[*place] : 0;
    all_claimed_ = rows_left_ == 0;
    if (!place) return;
    const parallel::Unit& unit = plan_.units[plan_.order[*place]];
    if (committed_.rows(unit.first, unit.count)) continue;  // a resumed job passes over what is done
    rows_in_work_ += unit.count;
    claimed_.push_back(unit);
    changed_.notify_all();
  }
}

// Most answers that this replica may have under way: its part of what nobody has claimed yet, so that about
// half of what remains stays in the queue for whoever is done first. Batches shrink towards the end of the
// job, when the others are as far; with more to take at once, one replica would end long before another.
double Intake::share() const {
  if (plan_.replicas == 1) return std::numeric_limits<double>::infinity();
  const double answers_per_prompt = prompts_taken_ > 0 ? answers_taken_ / prompts_taken_ : 1.0;
  return std::max(least_share_, static_cast<double>(rows_left_) * answers_per_prompt / plan_.replicas);
}

std::optional<PreparedPrompt> Intake::take() {
  const std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
  if (ready_.empty()) return std::nullopt;
  PreparedPrompt prompt = std::move(ready_.front());
  ready_.pop_front();
  ++prompts_taken_;
  answers_taken_ += static_cast<double>(prompt.samples.size());
  return prompt;
}

bool Intake::exhausted() const {
  const std::lock_guard lock(mutex_);
  return all_claimed_ && rows_in_work_ == 0 && ready_.empty() && !failure_;
}

void Intake::wait() const {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(5), [this] { return !ready_.empty() || failure_; });
}

void Intake::read_ahead() {
  try {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !claimed_.empty(); });
      if (stopping_) return;
      const parallel::Unit unit = claimed_.front();
      claimed_.pop_front();
      lock.unlock();
      prepare_unit(unit);
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

void Intake::prepare_unit(const parallel::Unit& unit) {
  for (std::uint64_t done = 0; done < unit.count;) {
    const std::uint64_t count = std::min(kReadRows, unit.count - done);
    std::vector<PreparedPrompt> prepared = prepare_rows(unit.first + done, count);
    done += count;
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    for (PreparedPrompt& prompt : prepared) ready_.push_back(std::move(prompt));
    rows_in_work_ -= count;
    changed_.notify_all();
  }
}

std::vector<PreparedPrompt> Intake::prepare_rows(PromptRow first, std::uint64_t count) const {
  std::vector<PreparedPrompt> prepared;
  reading(first, count);
  for (io::Prompt& prompt : prompts_.read(first, count)) {
    std::vector<std::int32_t> samples;
    const auto n = static_cast<std::int32_t>(prompt.error.empty() ? prompt.params.n : 1);
    for (std::int32_t s = 0; s < n; ++s) {
      if (!committed_.sample(prompt.row, s)) samples.push_back(s);
    }
    if (samples.empty()) continue;
    reading(prompt.row, 1);
    prepared.push_back(preparer_.prepare(std::move(prompt)));
    prepared.back().samples = std::move(samples);
    preparer_.take_up(prepared.back(), committed_.checkpoints().read(prepared.back().row));
  }
  reading(0, 0);
  return prepared;
}

void Intake::reading(PromptRow first, std::uint64_t count) const {
  if (reading_) reading_(first, count);
}

}  // namespace nightshift::runtime
