// SPDX-License-Identifier: Apache-2.0
// The promise of the parallel layer, with equality: tokens, log-probabilities and every logit are those of
// one rank, for every legal sequence x tensor x replicas and every pattern of shifts.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "model/ranks/ranks.h"

namespace nightshift::test {
namespace {

constexpr int kContext = 104;
constexpr int kSteps = 22;

struct Case {
  std::string family;  // a golden, with these heads
  int heads, kv_heads, head_dim, intermediate, vocab;
  std::string name() const {
    return family + "_" + std::to_string(heads) + "_" + std::to_string(kv_heads) + "_" +
           std::to_string(head_dim) + "_" + std::to_string(intermediate) + "_" + std::to_string(vocab);
  }
};

void reshape(nlohmann::json& shape, const std::string& name, const Case& c) {
  const auto ends = [&](const char* part) { return name.find(part) != std::string::npos; };
  const int q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  if (ends("q_proj")) shape[0] = q;
  if (ends("k_proj") || ends("v_proj")) shape[0] = kv;
  if (ends("o_proj.weight")) shape[1] = q;
  if (ends("q_norm") || ends("k_norm")) shape[0] = c.head_dim;
  if (ends("gate_proj") || ends("up_proj")) shape[0] = c.intermediate;
  if (ends("down_proj.weight")) shape[1] = c.intermediate;
  if (ends("embed_tokens") || ends("lm_head")) shape[0] = c.vocab;
}

Golden with_shape(const Case& c) {
  Golden golden = read_golden(c.family);
  golden.config["num_attention_heads"] = c.heads;
  golden.config["num_key_value_heads"] = c.kv_heads;
  golden.config["head_dim"] = c.head_dim;
  golden.config["intermediate_size"] = c.intermediate;
  golden.config["vocab_size"] = c.vocab;
  for (auto& [name, shape] : golden.tensors.items()) reshape(shape, name, c);
  return golden;
}

struct Trace {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  std::vector<std::vector<float>> logits;  // of every sampled row
};

// Parameters that take every way through the sampler.
std::vector<SamplingParams> ways() {
  std::vector<SamplingParams> all(7);
  all[1].temperature = 0.9;
  all[1].top_k = 5;
  all[2].temperature = 1.1;
  all[2].top_p = 0.8;
  all[3].logprobs = 3;
  all[4].repetition_penalty = 1.4;
  all[4].presence_penalty = 0.3;
  all[4].min_tokens = 50;
  all[4].stop_token_ids = {7, 70, 140};
  all[5].temperature = 0.7;
  all[5].top_k = 40;
  all[5].top_p = 0.9;
  all[5].frequency_penalty = 0.2;
  all[6].temperature = 1.5;
  all[6].min_p = 0.05;
  all[6].logprobs = 1;
  return all;
}

// Sequences come in one after the other, read their prompts in chunks of changing size, and decode together.
Trace run(model::Model& model, const Golden& golden, const LayoutOfStep& layout) {
  std::vector<TestSequence> sequences;
  for (const SamplingParams& params : ways()) {
    const auto i = static_cast<int>(sequences.size());
    const auto length = static_cast<std::ptrdiff_t>(golden.prompt.size()) - 5 * i;
    sequences.push_back(make_sequence(static_cast<SequenceId>(i + 1),
                                      {golden.prompt.begin(), golden.prompt.begin() + length}, i * 7,
                                      kContext));
    sequences.back().sampling = params;
  }
  Trace trace;
  for (int s = 0; s < kSteps; ++s) {
    std::vector<TestSequence*> batch;
    std::vector<int> counts;
    for (std::size_t i = 0; i < sequences.size() && static_cast<int>(i) <= s / 2; ++i) {
      if (s % 5 == 3 && i % 2 == 0) continue;  // steps of a few tokens, fewer than ranks
      const int pending = static_cast<int>(sequences[i].tokens.size()) - sequences[i].computed;
      batch.push_back(&sequences[i]);
      counts.push_back(std::min(pending, 9 + 2 * s));
    }
    const StepResult result = step(model, batch, counts, layout(s));
    for (std::size_t row = 0; row < result.tokens.size(); ++row) {
      trace.tokens.push_back(result.tokens[row].token);
      trace.logprobs.push_back(result.tokens[row].logprob);
      for (const TokenLogprob& top : result.tokens[row].top) trace.logprobs.push_back(top.logprob);
      const auto logits = model.logits(static_cast<int>(row));
      trace.logits.emplace_back(logits.begin(), logits.end());
    }
  }
  return trace;
}

class Layouts : public testing::TestWithParam<Case> {};

TEST_P(Layouts, GiveTheBitsOfOneRank) {
  const Golden golden = with_shape(GetParam());
  const SharedDirectory directory([&](const auto& path) { write_model(golden, path); });
  const model::ModelFiles files = model::open_model_files(directory.path());
  model::ModelOptions options = small_options(kContext, 64);
  options.tokenizer_size = GetParam().vocab - 3;
  const auto single = model::Model::load(files, options);
  const Trace want = run(*single, golden, [](int) { return parallel::Layout::base; });
  ASSERT_GT(std::set<TokenId>(want.tokens.begin(), want.tokens.end()).size(), 10U);
  for (const parallel::Degrees& degrees : degrees_here(files.config.shape, false)) {
    const parallel::DeviceMesh mesh(*test_world, degrees);
    options.mesh = &mesh;
    const auto model = model::Model::load(files, options);
    for (const Pattern& pattern : patterns(can_shift(files.config.shape, degrees))) {
      const Trace got = run(*model, golden, pattern.layout);
      const std::string where = std::to_string(mesh.replicas()) + " replicas of sequence " +
                                std::to_string(degrees.sequence) + " x tensor " +
                                std::to_string(degrees.tensor) + ", " + pattern.name;
      if (test_world->rank() == 0) std::cout << "  " << where << "\n";
      EXPECT_EQ(got.tokens, want.tokens) << where;
      EXPECT_EQ(got.logprobs, want.logprobs) << where;
      EXPECT_EQ(got.logits, want.logits) << where;
    }
    EXPECT_LE(model->weight_bytes(parallel::Layout::shift), model->weight_bytes(parallel::Layout::base));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, Layouts,
    testing::Values(Case{"llama_bias", 8, 4, 16, 176, 160},     // all biases; KV heads repeated
                    Case{"qwen3", 8, 8, 24, 400, 517},          // tied, head norms, odd vocabulary
                    Case{"mistral_window", 8, 2, 32, 72, 700},  // fewer MLP units than shards
                    Case{"qwen2", 14, 2, 16, 352, 300},         // QKV bias; 14 heads
                    Case{"llama3", 12, 3, 8, 176, 160}),        // 3, 6, 12 ranks of sequence
    [](const auto& instance) { return instance.param.name(); });

// A shard's weights lie inside the host's one copy, and shifting adds none.
TEST(Weights, AreTheSameBytesWithAndWithoutShift) {
  const Golden golden = with_shape({"qwen3", 8, 8, 24, 512, 512});
  const SharedDirectory directory([&](const auto& path) { write_model(golden, path); });
  const model::ModelFiles files = model::open_model_files(directory.path());
  std::set<std::int64_t> host_bytes;
  for (const parallel::Degrees& degrees : degrees_here(files.config.shape, true)) {
    const parallel::DeviceMesh mesh(*test_world, degrees);
    model::ModelOptions options = small_options(kContext);
    options.mesh = &mesh;
    const auto model = model::Model::load(files, options);
    const double whole = test_world->sum(static_cast<double>(model->weight_bytes(parallel::Layout::shift)));
    const double one = static_cast<double>(model->weight_bytes(parallel::Layout::shift)) * degrees.ranks();
    EXPECT_EQ(model->weight_bytes(parallel::Layout::base),
              model->weight_bytes(parallel::Layout::shift) * degrees.sequence);
    EXPECT_NEAR(whole, one * mesh.replicas(), 0.01 * whole);
    host_bytes.insert(model->memory().weights);
  }
  EXPECT_LE(*host_bytes.rbegin() - *host_bytes.begin(), *host_bytes.begin() / 4);  // padding of small chunks
}

}  // namespace
}  // namespace nightshift::test
