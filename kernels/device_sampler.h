// SPDX-License-Identifier: Apache-2.0
// Sampling where the logits are: from rows of logits in a GPU's memory to tokens in its memory, which the
// next step reads without the host. Same logits, same parameters: the token, the sum and the order that
// model::Sampler finds on the host, bit by bit (see model/sampler.h for what is computed). What it takes from
// the host are numbers that do not depend on the logits.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/kernels.h"

namespace nightshift::kernels {

// How one row wants its token chosen: SamplingParams as the arithmetic uses them.
struct SamplingRow {
  double u;      // uniform in [0, 1), of this output position
  double top_p;  // >= 1: off
  double repetition_penalty, presence_penalty, frequency_penalty;
  float inverse_temperature;
  float min_p;
  std::int32_t greedy;             // the most likely token; temperature, top-p, top-k and min-p do not count
  std::int32_t top_k;              // 0: all
  std::int32_t logprobs;           // length of the row's top list; 0: none, and no sum either
  std::int32_t first_edit, edits;  // of the call's list
  // Index into `previous` of a token that counts as one more output token for the penalties; -1: none.
  std::int32_t pending;
};

// What a row's masks and penalties do to the logit of one token. An id appears once in a row.
struct TokenEdit {
  TokenId id;          // masked: ~id, which makes its logit -infinity before penalties
  std::int32_t times;  // among the output; 0: a token of the prompt; -1: masked only, no penalty
};

struct SampledRow {
  double sum;            // of exp(logit - maximum), when logprobs > 0
  float maximum, logit;  // of the unmodified row: the largest, and the token's
  TokenId token;      // -1: the row holds a NaN or +infinity, or no finite value, before or after the edits
  std::int32_t tops;  // length of the top list: fewer where the row has fewer finite values
};

struct ScoredToken {
  TokenId id;
  float logit;
};

// One call's arrays, all in device memory, untouched by the caller until a later mark. M rows.
struct SamplingCall {
  const SamplingRow* rows = nullptr;  // [M]
  TokenEdit* edits = nullptr;         // undefined afterwards
  const TokenId* previous = nullptr;  // null when no row has a pending token
  TokenId* tokens = nullptr;          // [M]
  SampledRow* results = nullptr;      // [M]
  MatrixView<ScoredToken> top;        // [M, >= logprobs]: the most likely of the unmodified rows, best first
};

class DeviceSampler {
 public:
  virtual ~DeviceSampler() = default;
  // logits [M, >= vocab]; padding columns do not count. Their values are the same afterwards, though rows are
  // edited in between.
  virtual void sample(MatrixView<float> logits, const SamplingCall& call) = 0;
};

}  // namespace nightshift::kernels
