// SPDX-License-Identifier: Apache-2.0
// The words every room speaks: ids, element types, tensors, the shape of a model, and what passes between the
// scheduler and an executor (BatchPlan down, StepResult up).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace nightshift {

using TokenId = std::int32_t;
using BlockId = std::int32_t;      // physical KV block
using SequenceId = std::uint64_t;  // unique within one scheduler, never reused
using PromptRow = std::uint64_t;   // row of the input file

// Tokens per KV block. Attention tiles are aligned to absolute positions in multiples of it, so the block
// size is part of the arithmetic, not a tuning knob.
inline constexpr int kKvBlockTokens = 16;

// Virtual shards of a row-parallel reduction (attention output and MLP down projection), summed in one binary
// tree.
inline constexpr int kReductionShards = 8;

// Storage only: arithmetic on it happens in fp32. Rounds to nearest even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  bool operator==(const bf16&) const = default;
};
static_assert(sizeof(bf16) == 2);

enum class DType : std::uint8_t { f32, bf16, f16, i32 };

constexpr std::size_t size_of(DType type) {
  return type == DType::f32 || type == DType::i32 ? 4 : 2;
}
constexpr const char* name_of(DType type) {
  constexpr std::array names{"f32", "bf16", "f16", "i32"};
  return names[static_cast<std::size_t>(type)];
}

// The numbers of a decoder-only transformer that planning, layout and cost formulas need.
struct ModelShape {
  int layers = 0;
  int hidden = 0;
  int intermediate = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocab = 0;  // rows of the embedding, may exceed the tokenizer's
  bool tied_embeddings = false;

  std::int64_t layer_parameters() const {  // matrices of one layer; norms and biases do not matter for cost
    const std::int64_t attention = static_cast<std::int64_t>(hidden) * head_dim * (2 * heads + 2 * kv_heads);
    return attention + 3LL * hidden * intermediate;
  }
  std::int64_t matrix_parameters() const {
    return layers * layer_parameters();
  }  // without embedding and head
  std::int64_t embedding_parameters() const { return static_cast<std::int64_t>(vocab) * hidden; }
  std::int64_t kv_bytes_per_token() const { return 2LL * layers * kv_heads * head_dim * 2; }  // bf16 K and V
};

// How one prompt wants its tokens chosen. Defaults are the job's [sampling]; every prompt may override any of
// them.
struct SamplingParams {
  std::int64_t max_tokens = 256;
  std::int64_t min_tokens = 0;
  double temperature = 0.0;  // 0: greedy
  double top_p = 1.0;
  std::int64_t top_k = 0;  // 0: all
  double min_p = 0.0;
  double repetition_penalty = 1.0;  // over prompt and output (Keskar et al. 2019); 1: off
  double presence_penalty = 0.0;    // over output
  double frequency_penalty = 0.0;   // over output
  std::uint64_t seed = 0;
  bool own_seed = false;  // the prompt itself brought the seed: then it alone, and the sample, key the draws
  std::vector<std::string> stop;        // not part of the answer
  std::vector<TokenId> stop_token_ids;  // beside the model's own end-of-sequence ids
  bool ignore_eos = false;
  std::int64_t n = 1;                  // answers per prompt
  std::int64_t logprobs = 0;           // 0: none; k: the chosen token's and the k most likely
  double max_seconds = 0.0;            // from its first step to its last token; 0: no bound
  std::int64_t repetition_guard = 0;   // so many copies of one piece in a row end an answer; 0: off
  std::int64_t repetition_ngram = 32;  // tokens of the longest such piece
};

// Values stand in journals and result files: add at the end only.
enum class FinishReason : std::uint8_t { none, stop, length, failed, cancelled, repetition };
constexpr const char* name_of(FinishReason reason) {
  constexpr std::array names{"none", "stop", "length", "failed", "cancelled", "repetition"};
  return names[static_cast<std::size_t>(reason)];
}
inline constexpr FinishReason kLastFinishReason = FinishReason::repetition;

// One sequence's share of a step. Spans point into the scheduler and stay valid until the step is committed.
struct PlannedSequence {
  SequenceId id = 0;
  int computed = 0;      // tokens whose K and V are in the cache before this step
  int num_tokens = 0;    // query tokens of this step: positions computed .. computed + num_tokens - 1
  bool samples = false;  // the last query token's logits give the next token
  int prompt_tokens = 0;
  // Everything known: prompt, then output. At least computed + num_tokens long, except in overlapped steps:
  // what a step in flight samples for this sequence is missing at the end, and the executor fills it in.
  std::span<const TokenId> tokens;
  std::span<const BlockId> blocks;  // logical block i holds positions [16 i, 16 i + 16); as far as needed
  const SamplingParams* sampling = nullptr;
  std::uint64_t random_key =
      0;  // keys the counter-based generator: (job seed, prompt, sample); position is added

  int output_position() const { return computed + num_tokens - prompt_tokens; }  // index of the sampled token
};

// One step: decodes first, then prefill chunks.
struct BatchPlan {
  std::uint64_t step = 0;
  std::vector<PlannedSequence> sequences;
  int query_tokens = 0;
  int decode_tokens = 0;  // of query_tokens
  bool tail = false;      // no prefill is left and no request will come any more: what runs is the job's end

  bool empty() const { return sequences.empty(); }
};

struct TokenLogprob {
  TokenId token = -1;
  float logprob = 0.0F;
};

// One sampled token, in plan order over the sequences that sample.
struct SampledToken {
  SequenceId id = 0;
  TokenId token = -1;             // -1: none, the logits held NaN
  float logprob = 0.0F;           // of the chosen token, under the unmodified distribution
  std::vector<TokenLogprob> top;  // the most likely, when asked for

  bool failed() const { return token < 0; }  // the sequence ends as a failed row with reason nan_logits
};

struct StepResult {
  std::uint64_t step = 0;
  std::vector<SampledToken> tokens;
  double compute_seconds = 0.0;  // model time of the step, without queueing
};

}  // namespace nightshift
