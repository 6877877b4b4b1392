// SPDX-License-Identifier: Apache-2.0
// Whole steps on GPUs of their own and on a shared one: the calls that NCCL gets, in order, with their counts
// and types, and bits that do not depend on the way between ranks.
#include <algorithm>

#include "core/check.h"
#include "model/collectives/support.h"
#include "model/golden_models.h"
#include "model/model.h"

namespace nightshift::test {
namespace {

using model::Transport;
using parallel::Degrees;
using parallel::Layout;

constexpr int kSequences = 4, kTokens = 8;

model::ModelConfig tiny() {
  model::ModelConfig config;
  config.model_type = "llama";
  config.shape.layers = 2;
  config.shape.hidden = 64;
  config.shape.heads = 8;
  config.shape.kv_heads = 4;
  config.shape.head_dim = 16;
  config.shape.intermediate = 128;
  config.shape.vocab = 512;
  config.max_positions = 64;
  config.windows.assign(2, 0);
  return config;
}

struct Outcome {
  std::vector<TokenId> tokens;
  std::vector<float> logits;
  std::vector<std::vector<std::string>> calls;  // into NCCL, of each step
  std::vector<std::uint64_t> sent;              // bytes of each step but those of sampling
  std::string transport;
};

std::uint64_t bytes_sent() {
  std::uint64_t bytes = 0;
  const parallel::TrafficSums traffic = test_world->traffic();
  for (std::size_t kind = 0; kind < traffic.size(); ++kind)
    if (static_cast<parallel::Traffic>(kind) != parallel::Traffic::sampling) bytes += traffic[kind].bytes;
  return bytes;
}

// The prompts in one step, `tokens` of each sequence, and then steps of one token of each.
Outcome run(const char* kernels, int gpu, const parallel::DeviceMesh* mesh, Transport transport,
            Layout layout, int tokens, int steps) {
  const Setting visible("CUDA_VISIBLE_DEVICES", std::to_string(gpu));
  model::ModelOptions options;
  options.limits = {.max_context = 32, .max_query_tokens = 64, .max_sampled_rows = 8, .kv_blocks = 16};
  options.kernels = kernels;
  options.mesh = mesh;
  options.transport = transport;
  const auto model = model::Model::random(tiny(), options, 5);
  std::vector<TestSequence> sequences;
  std::vector<TestSequence*> batch;
  for (int i = 0; i < kSequences; ++i) {
    std::vector<TokenId> prompt;
    for (int j = 0; j < tokens + i % 2 * (tokens % 2); ++j) prompt.push_back(37 * i + 11 * j + 3);
    sequences.push_back(make_sequence(static_cast<SequenceId>(i + 1), prompt, 2 * i, 32));
  }
  std::vector<int> counts;
  for (TestSequence& sequence : sequences) {
    batch.push_back(&sequence);
    counts.push_back(sequence.prompt_tokens);
  }
  Outcome outcome{.tokens = {}, .logits = {}, .calls = {}, .sent = {}, .transport = model->transport()};
  for (int i = 0; i < steps; ++i, counts.assign(kSequences, 1)) {
    take_record();
    const std::uint64_t before = bytes_sent();
    const StepResult result = step(*model, batch, counts, layout);
    outcome.sent.push_back(bytes_sent() - before);
    outcome.calls.push_back(take_record());
    for (std::size_t row = 0; row < result.tokens.size(); ++row) {
      outcome.tokens.push_back(result.tokens[row].token);
      const auto logits = model->logits(static_cast<int>(row));
      outcome.logits.insert(outcome.logits.end(), logits.begin(), logits.end());
    }
  }
  return outcome;
}

std::vector<std::string> all_to_all(std::int64_t bytes, int ranks) {
  if (nccl_has_all_to_all()) return {fmt::format("ncclAlltoAll {} int8", bytes)};
  std::vector<std::string> lines{"ncclGroupStart"};
  for (int r = 0; r < ranks; ++r) {
    lines.push_back(fmt::format("ncclSend {} int8 to {}", bytes, r));
    lines.push_back(fmt::format("ncclRecv {} int8 from {}", bytes, r));
  }
  lines.emplace_back("ncclGroupEnd");
  return lines;
}

// Every rank takes its rows of logits from all and gives their tokens to all.
std::vector<std::string> sampling(int ranks) {
  const std::int64_t rows = kSequences / ranks, chunk = tiny().shape.vocab / ranks;
  std::vector<std::string> lines = all_to_all(rows * chunk * 4, ranks);
  lines.push_back(fmt::format("ncclAllGather {} int8", rows * 4));
  return lines;
}

// The calls of a step whose tokens and samples every rank has an equal share of.
std::vector<std::string> expected(const Degrees& degrees, Layout layout, bool fast) {
  const ModelShape shape = tiny().shape;
  const int sp = layout == Layout::base ? degrees.sequence : 1, tp = degrees.ranks() / sp;
  const std::int64_t tokens = kSequences * kTokens, slice = tokens / sp;
  const std::int64_t heads = shape.heads / degrees.ranks();
  const std::int64_t kv_heads = std::max(1, shape.kv_heads / degrees.ranks());
  std::vector<std::string> lines;
  const auto add = [&](const std::vector<std::string>& more) {
    lines.insert(lines.end(), more.begin(), more.end());
  };
  const auto reduce = [&] {
    if (tp == 1) return;
    if (fast) return add({fmt::format("ncclAllReduce {} float32", slice * shape.hidden)});
    add(all_to_all(slice * shape.hidden / tp * 4, tp));
    add({fmt::format("ncclAllGather {} int8", slice * shape.hidden / tp * 4)});
  };
  reduce();  // the embedding
  for (int layer = 0; layer < shape.layers; ++layer) {
    if (sp > 1) {
      add(all_to_all(slice * (heads + 2 * kv_heads) * shape.head_dim * 2, sp));
      add(all_to_all(slice * heads * shape.head_dim * 2, sp));
    }
    reduce();  // attention
    reduce();  // MLP
  }
  if (sp > 1) add({fmt::format("ncclAllGather {} int8", kSequences / sp * shape.hidden * 4)});
  add(sampling(degrees.ranks()));
  return lines;
}

class Steps : public testing::TestWithParam<const char*> {};

TEST_P(Steps, AskNcclForTheFormulasCallsAndGiveTheBitsOfMpi) {
  const bool fast = std::string(GetParam()) == "cuda_fast";
  const Outcome alone = run("cuda", test_world->rank(), nullptr, Transport::mpi, Layout::base, kTokens, 4);
  for (const Degrees& degrees : parallel::legal_degrees(tiny().shape, test_world->size(), true)) {
    if (degrees.ranks() != test_world->size()) continue;
    const parallel::DeviceMesh mesh(*test_world, degrees);
    for (const Layout layout : {Layout::base, Layout::shift}) {
      const std::string where =
          fmt::format("sequence {} x tensor {}, {}", degrees.sequence, degrees.tensor, name_of(layout));
      const auto go = [&](int gpu, Transport transport) {
        return run(GetParam(), gpu, &mesh, transport, layout, kTokens, 4);
      };
      const Outcome nccl = go(test_world->rank(), Transport::automatic);
      const Outcome mpi = go(0, Transport::mpi);
      EXPECT_EQ(nccl.transport, "nccl");
      EXPECT_EQ(nccl.calls[0], expected(degrees, layout, fast)) << where;
      // Steps of one token: as they are, recorded in a graph, and from the graph; sampling stands outside of
      // it.
      EXPECT_EQ(nccl.calls[2], nccl.calls[1]) << where;
      EXPECT_GT(nccl.calls[2].size(), sampling(degrees.ranks()).size()) << where;
      EXPECT_EQ(nccl.calls[3], sampling(degrees.ranks())) << where;
      EXPECT_EQ(nccl.sent[0], mpi.sent[0]) << where;
      EXPECT_EQ(nccl.sent[2], nccl.sent[1]) << where;
      EXPECT_EQ(nccl.sent[3], nccl.sent[1]) << where;
      EXPECT_EQ(mpi.transport, "mpi");
      EXPECT_EQ(nccl.tokens, mpi.tokens) << where;
      EXPECT_EQ(nccl.logits, mpi.logits) << where;
      if (fast) continue;
      EXPECT_EQ(nccl.tokens, alone.tokens) << where;
      EXPECT_EQ(nccl.logits, alone.logits) << where;
    }
  }
}

// 30 tokens in four sequences, and then 4: no multiple of the ranks, and slices without a sampled row.
TEST_P(Steps, OfUnevenSlicesGiveTheBitsOfMpi) {
  for (const Degrees& degrees : parallel::legal_degrees(tiny().shape, test_world->size(), true)) {
    if (degrees.ranks() != test_world->size() || degrees.sequence == 1) continue;
    const parallel::DeviceMesh mesh(*test_world, degrees);
    const Outcome nccl =
        run(GetParam(), test_world->rank(), &mesh, Transport::nccl, Layout::base, kTokens - 1, 2);
    const Outcome mpi = run(GetParam(), 0, &mesh, Transport::mpi, Layout::base, kTokens - 1, 2);
    EXPECT_EQ(nccl.tokens, mpi.tokens);
    EXPECT_EQ(nccl.logits, mpi.logits);
  }
}

INSTANTIATE_TEST_SUITE_P(Numerics, Steps, testing::Values("cuda", "cuda_fast"),
                         [](const auto& name) { return std::string(name.param); });

}  // namespace
}  // namespace nightshift::test
