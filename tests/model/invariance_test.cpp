// SPDX-License-Identifier: Apache-2.0
// The promise of the room, with equality: logits and tokens of a sequence do not depend on what else is in
// the batch, on how its prompt is cut, on where its KV blocks lie or who filled them, or on the number of
// threads.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/kernels.h"
#include "model/golden_models.h"

namespace nightshift::test {
namespace {

constexpr int kContext = 104;
constexpr int kGenerated = 12;

struct Trace {
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;  // of every sampled token
  bool operator==(const Trace&) const = default;
};

struct Case {
  std::string family, kernels;
};

class Invariance : public testing::TestWithParam<Case> {
 protected:
  Invariance() : golden_(read_golden(GetParam().family)) { write_model(golden_, directory_.path()); }

  std::unique_ptr<model::Model> load(int threads) const {
    model::ModelOptions options = small_options(kContext, 96);
    options.kernels = GetParam().kernels;
    options.threads = threads;
    return model::Model::load(model::open_model_files(directory_.path()), options);
  }

  TestSequence sequence(BlockId first_block = 0) const {
    TestSequence s = make_sequence(5, golden_.prompt, first_block, kContext);
    s.sampling.temperature = 0.8;
    s.sampling.top_p = 0.9;
    return s;
  }

  static void note(const model::Model& model, int row, const TestSequence& s, Trace& trace) {
    const auto logits = model.logits(row);
    trace.logits.emplace_back(logits.begin(), logits.end());
    trace.tokens.push_back(s.tokens.back());
  }

  // Prompt in chunks of `chunk`, then one token at a time.
  static Trace alone(model::Model& model, TestSequence s, int chunk) {
    Trace trace;
    while (trace.tokens.size() < kGenerated) {
      const int pending = static_cast<int>(s.tokens.size()) - s.computed;
      const int count = std::min(chunk, pending);
      step(model, {&s}, {count});
      if (count == pending) note(model, 0, s, trace);
    }
    return trace;
  }

  Golden golden_;
  TempDir directory_;
};

TEST_P(Invariance, ChunkSize) {
  const auto model = load(1);
  const Trace whole = alone(*model, sequence(), 128);
  ASSERT_EQ(whole.tokens.size(), static_cast<std::size_t>(kGenerated));
  for (const int chunk : {1, 7, 16, 33})
    EXPECT_EQ(alone(*model, sequence(), chunk), whole) << "chunk " << chunk;
}

TEST_P(Invariance, Threads) {
  const Trace one = alone(*load(1), sequence(), 128);
  for (const int threads : {2, 3})
    EXPECT_EQ(alone(*load(threads), sequence(), 16), one) << threads << " threads";
}

TEST_P(Invariance, PlaceOfBlocks) {
  const auto model = load(2);
  const Trace first = alone(*model, sequence(0), 16);
  TestSequence scattered = sequence(40);
  std::reverse(scattered.blocks.begin(), scattered.blocks.end());
  EXPECT_EQ(alone(*model, scattered, 16), first);
}

// Others prefill and decode around it, join, and leave.
TEST_P(Invariance, Company) {
  const auto model = load(2);
  const Trace lonely = alone(*model, sequence(), 128);
  TestSequence s = sequence(30);
  TestSequence decoding = make_sequence(1, {3, 4, 5}, 0, kContext);
  TestSequence prefilling = make_sequence(2, std::vector<TokenId>(90, 7), 10, kContext);
  prefilling.sampling.temperature = 1.3;
  step(*model, {&decoding}, {3});
  Trace trace;
  for (int i = 0; trace.tokens.size() < kGenerated; ++i) {
    std::vector<TestSequence*> batch{&decoding};
    std::vector<int> counts{1};
    const int left = static_cast<int>(prefilling.tokens.size()) - prefilling.computed;
    if (i % 3 == 0 && left > 0 && prefilling.computed + left < kContext) {
      batch.push_back(&prefilling);
      counts.push_back(std::min(left, 13));
    }
    const int pending = static_cast<int>(s.tokens.size()) - s.computed;
    batch.push_back(&s);
    counts.push_back(std::min(pending, 11));
    const auto result = step(*model, batch, counts);
    if (counts.back() == pending) note(*model, static_cast<int>(result.tokens.size()) - 1, s, trace);
  }
  EXPECT_EQ(trace, lonely);
}

// Full blocks of the prompt that another sequence filled, in an earlier step or in the same one.
TEST_P(Invariance, SharedPrefix) {
  const auto model = load(2);
  const Trace lonely = alone(*model, sequence(), 128);
  const int shared = static_cast<int>(golden_.prompt.size()) / kKvBlockTokens;
  for (const bool same_step : {false, true}) {
    TestSequence owner = sequence(50), user = sequence(70);
    owner.tokens.push_back(9);  // goes on differently behind the shared part
    owner.prompt_tokens += 1;
    std::copy_n(owner.blocks.begin(), shared, user.blocks.begin());
    user.computed = shared * kKvBlockTokens;
    const int rest = static_cast<int>(user.tokens.size()) - user.computed;
    Trace trace;
    if (same_step) {
      step(*model, {&owner, &user}, {41, rest});
      note(*model, 1, user, trace);
    } else {
      step(*model, {&owner}, {41});
      step(*model, {&user}, {rest});
      note(*model, 0, user, trace);
    }
    while (trace.tokens.size() < kGenerated) {
      step(*model, {&user}, {1});
      note(*model, 0, user, trace);
    }
    EXPECT_EQ(trace, lonely) << (same_step ? "same step" : "earlier step");
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* family : {"llama_bias", "mistral_window", "qwen2", "qwen3"})
    for (const std::string& kernels : kernels::available_kernel_sets())
      // The fast set's bits depend on the company; the tiny qwen3 has heads of 24, which GPUs do not take.
      if (kernels != "cuda_fast" && (kernels != "cuda" || std::string(family) != "qwen3"))
        all.push_back({family, kernels});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Models, Invariance, testing::ValuesIn(cases()), [](const auto& instance) {
  return instance.param.family + "_" + instance.param.kernels;
});

}  // namespace
}  // namespace nightshift::test
