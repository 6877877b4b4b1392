// SPDX-License-Identifier: Apache-2.0
// Sampler's choices on a GPU: what the host knows about each row goes up, tokens stay where the next step
// reads them, and results come down behind the step. No call waits for the GPU, except when a slot's memory
// grows: penalties of longer sequences, longer top lists.
//
// Several steps may be in flight, each with a slot of its own: a slot may start again once its results were
// taken.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/device_sampler.h"
#include "kernels/kernels.h"
#include "model/sampler.h"

namespace nightshift::model {

class DeviceSampling {
 public:
  // A backend whose make_sampler() gives one. max_rows: of a step. The sampler and the backend must outlive
  // this, and so must the work that was started.
  DeviceSampling(const Sampler& sampler, kernels::Backend& backend, int max_rows, int slots);
  ~DeviceSampling();

  // Row i of logits [M, >= vocab] gives the token of *rows[i]. Where that sequence's tokens lack the last one
  // (an overlapped step), it is previous_tokens[pending[i]], in device memory; elsewhere pending[i] does not
  // count. pending: [M], or empty when no tokens are missing. Only penalties read it.
  void start(int slot, kernels::MatrixView<float> logits, std::span<const PlannedSequence* const> rows,
             std::span<const std::int32_t> pending = {}, const TokenId* previous_tokens = nullptr);

  // Of the rows that the slot was started with, once a mark set after start() is reached.
  std::vector<SampledToken> result(int slot) const;

  // [M] in device memory: -1 for rows that failed. Written by the work that start() has called for, valid
  // until the slot starts again.
  const TokenId* tokens(int slot) const;

 private:
  // What the host remembers of a row until its result comes.
  struct Expected {
    SequenceId id = 0;
    bool logprobs = false;
  };
  struct Slot {
    kernels::Buffer rows, edits, tokens, results, top;  // in device memory
    kernels::Buffer host_results, host_top;             // page-locked
    std::vector<Expected> expected;
    std::int64_t top_length = 0;  // of each row's list
  };

  kernels::SamplingRow describe(const PlannedSequence& sequence, std::int32_t pending);
  void add_edits(const PlannedSequence& sequence);
  void reserve(Slot& slot);
  Slot& at(int slot);
  const Slot& at(int slot) const;

  const Sampler& sampler_;
  kernels::Backend& backend_;
  std::unique_ptr<kernels::DeviceSampler> device_;
  std::int64_t max_rows_;
  std::vector<Slot> slots_;
  // Of the call that is being put together.
  std::vector<kernels::SamplingRow> rows_;
  std::vector<kernels::TokenEdit> edits_;
  std::vector<std::int32_t> counts_;  // [vocab], zero between rows
  std::vector<TokenId> touched_, masked_;
};

}  // namespace nightshift::model
