// SPDX-License-Identifier: Apache-2.0
#include "model/device_sampling.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "model/sampling_rules.h"

namespace nightshift::model {

namespace {

using kernels::Buffer;

template <class T>
std::size_t bytes_of(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(T);
}

std::int32_t clamped(std::int64_t value, std::int64_t most) {
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(value, 0, most));
}

}  // namespace

DeviceSampling::DeviceSampling(const Sampler& sampler, kernels::Backend& backend, int max_rows, int slots)
    : sampler_(sampler),
      backend_(backend),
      device_(backend.make_sampler(sampler.vocab())),
      max_rows_(max_rows),
      slots_(static_cast<std::size_t>(slots)),
      counts_(static_cast<std::size_t>(sampler.vocab())) {
  NS_CHECK(device_ != nullptr, "kernel set {} samples on the host", backend.kernel_set());
  NS_CHECK(max_rows > 0 && slots > 0, "{} rows, {} slots", max_rows, slots);
  for (Slot& slot : slots_) {
    slot.rows = backend.allocate(bytes_of<kernels::SamplingRow>(max_rows), "model::sampling_rows");
    slot.tokens = backend.allocate(bytes_of<TokenId>(max_rows), "model::sampled_tokens");
    slot.results = backend.allocate(bytes_of<kernels::SampledRow>(max_rows), "model::sampled_rows");
    slot.host_results = backend.allocate_host(slot.results.bytes(), "model::sampled_rows");
  }
}

DeviceSampling::~DeviceSampling() = default;

DeviceSampling::Slot& DeviceSampling::at(int slot) {
  NS_CHECK(slot >= 0 && static_cast<std::size_t>(slot) < slots_.size(), "slot {} of {}", slot, slots_.size());
  return slots_[static_cast<std::size_t>(slot)];
}
const DeviceSampling::Slot& DeviceSampling::at(int slot) const {
  return const_cast<DeviceSampling*>(this)->at(slot);
}

// Masks and penalties, as Sampler applies them: a masked token that is known too has one edit for both.
void DeviceSampling::add_edits(const PlannedSequence& sequence) {
  const SamplingParams& params = *sequence.sampling;
  masked_.clear();
  touched_.clear();
  if (masks_stops(sequence)) {
    for (const auto* ids : {&sampler_.stop_ids(), &params.stop_token_ids})
      for (const TokenId id : *ids)
        if (id >= 0 && id < sampler_.vocab()) masked_.push_back(id);
    std::sort(masked_.begin(), masked_.end());
    masked_.erase(std::unique(masked_.begin(), masked_.end()), masked_.end());
  }
  if (has_penalties(params)) count_known(sequence, 0, counts_.size(), counts_, touched_);
  for (const TokenId id : masked_) edits_.push_back({~id, counts_[static_cast<std::size_t>(id)] - 1});
  for (const TokenId id : touched_) {
    std::int32_t& count = counts_[static_cast<std::size_t>(id)];
    if (masked_.empty() || !std::binary_search(masked_.begin(), masked_.end(), id))
      edits_.push_back({id, count - 1});
    count = 0;
  }
}

kernels::SamplingRow DeviceSampling::describe(const PlannedSequence& sequence, std::int32_t pending) {
  const SamplingParams& params = *sequence.sampling;
  kernels::SamplingRow row{};
  row.greedy = is_greedy(params) ? 1 : 0;
  row.u = uniform_of(sequence);
  row.top_p = params.top_p;
  row.repetition_penalty = params.repetition_penalty;
  row.presence_penalty = params.presence_penalty;
  row.frequency_penalty = params.frequency_penalty;
  row.inverse_temperature = is_greedy(params) ? 1.0F : inverse_temperature(params);
  row.min_p = static_cast<float>(params.min_p);
  row.top_k = clamped(params.top_k, std::numeric_limits<std::int32_t>::max());
  row.logprobs = clamped(params.logprobs, sampler_.vocab());
  row.first_edit = static_cast<std::int32_t>(edits_.size());
  add_edits(sequence);
  row.edits = static_cast<std::int32_t>(edits_.size()) - row.first_edit;
  row.pending = -1;
  const bool incomplete =
      sequence.tokens.size() < static_cast<std::size_t>(sequence.computed + sequence.num_tokens);
  if (has_penalties(params) && incomplete) {
    NS_CHECK(pending >= 0, "sequence {}: {} tokens known of {}, and none is pending", sequence.id,
             sequence.tokens.size(), sequence.computed + sequence.num_tokens);
    row.pending = pending;
  }
  return row;
}

// Memory for this call's edits and top lists. What the slot's last call used is done with: its results were
// taken; other slots' work may still run.
void DeviceSampling::reserve(Slot& slot) {
  const auto grow = [&](Buffer& buffer, std::size_t bytes, const char* label, bool on_host) {
    if (bytes <= buffer.bytes()) return;
    backend_.synchronize();
    const std::size_t larger = std::max(bytes, buffer.bytes() + buffer.bytes() / 2);
    buffer = {};
    buffer = on_host ? backend_.allocate_host(larger, label) : backend_.allocate(larger, label);
  };
  grow(slot.edits, bytes_of<kernels::TokenEdit>(static_cast<std::int64_t>(edits_.size())),
       "model::sampling_edits", false);
  const std::size_t top = bytes_of<kernels::ScoredToken>(slot.top_length * max_rows_);
  grow(slot.top, top, "model::top_tokens", false);
  grow(slot.host_top, top, "model::top_tokens", true);
}

void DeviceSampling::start(int which, kernels::MatrixView<float> logits,
                           std::span<const PlannedSequence* const> rows,
                           std::span<const std::int32_t> pending, const TokenId* previous_tokens) {
  const auto count = static_cast<std::int64_t>(rows.size());
  NS_CHECK(logits.rows == count && count <= max_rows_, "{} rows of logits for {} sequences, at most {}",
           logits.rows, count, max_rows_);
  NS_CHECK(pending.empty() || (pending.size() == rows.size() && previous_tokens != nullptr),
           "{} pending tokens for {} rows", pending.size(), rows.size());
  Slot& slot = at(which);
  rows_.clear();
  edits_.clear();
  slot.expected.clear();
  slot.top_length = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows_.push_back(describe(*rows[i], pending.empty() ? -1 : pending[i]));
    slot.top_length = std::max<std::int64_t>(slot.top_length, rows_.back().logprobs);
    slot.expected.push_back({rows[i]->id, rows_.back().logprobs > 0});
  }
  if (rows.empty()) return;
  reserve(slot);
  backend_.copy_to_device(slot.rows.data(), rows_.data(), bytes_of<kernels::SamplingRow>(count));
  backend_.copy_to_device(slot.edits.data(), edits_.data(), edits_.size() * sizeof(kernels::TokenEdit));
  kernels::SamplingCall call;
  call.rows = slot.rows.as<kernels::SamplingRow>();
  call.edits = slot.edits.as<kernels::TokenEdit>();
  call.previous = previous_tokens;
  call.tokens = slot.tokens.as<TokenId>();
  call.results = slot.results.as<kernels::SampledRow>();
  call.top = {slot.top.as<kernels::ScoredToken>(), count, slot.top_length};
  device_->sample(logits, call);
  backend_.copy_to_host_later(slot.host_results.data(), slot.results.data(),
                              bytes_of<kernels::SampledRow>(count));
  backend_.copy_to_host_later(slot.host_top.data(), slot.top.data(),
                              bytes_of<kernels::ScoredToken>(slot.top_length * count));
}

std::vector<SampledToken> DeviceSampling::result(int which) const {
  const Slot& slot = at(which);
  std::vector<SampledToken> tokens;
  for (std::size_t i = 0; i < slot.expected.size(); ++i) {
    const kernels::SampledRow& row = slot.host_results.as<kernels::SampledRow>()[i];
    SampledToken& token = tokens.emplace_back();
    token.id = slot.expected[i].id;
    token.token = row.token;
    if (token.failed() || !slot.expected[i].logprobs) continue;
    const double total = log_total(row.maximum, row.sum);
    token.logprob = logprob_of(row.logit, total);
    const auto* top =
        slot.host_top.as<kernels::ScoredToken>() + static_cast<std::int64_t>(i) * slot.top_length;
    for (std::int32_t k = 0; k < row.tops; ++k)
      token.top.push_back({.token = top[k].id, .logprob = logprob_of(top[k].logit, total)});
  }
  return tokens;
}

const TokenId* DeviceSampling::tokens(int slot) const {
  return at(slot).tokens.as<TokenId>();
}

}  // namespace nightshift::model
