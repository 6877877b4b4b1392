// SPDX-License-Identifier: Apache-2.0
// What travels between ranks, byte for byte what the formulas say (Shift Parallelism's cost table: two
// exchanges of bf16 activations under sequence parallelism, two reductions of fp32 sums under tensor
// parallelism, per layer).
#include <gtest/gtest.h>

#include "model/ranks/ranks.h"

namespace nightshift::test {
namespace {

using parallel::Layout;
using parallel::Traffic;

struct Volume {  // bytes, all ranks of a replica together
  double qkv, attention, reduction, embedding, rows;
};

Volume formula(const ModelShape& m, const parallel::Degrees& degrees, Layout layout, double n,
               double sampled) {
  const double ranks = degrees.ranks();
  const double sp = layout == Layout::base ? degrees.sequence : 1, tp = ranks / sp;
  const double kv_heads = std::max<double>(m.kv_heads, ranks);
  // Per rank and layer: (SP - 1) / SP * n / SP * (h + 2 h_kv) / TP * d_h * 2 bytes, and the way back.
  const double exchanged = (sp - 1) / sp * n / sp / tp * m.head_dim * 2 * ranks * m.layers;
  // 2 (TP - 1) / TP * n / SP * d * 4 bytes: a reduce-scatter and an all-gather.
  const double reduced = 2 * (tp - 1) / tp * n / sp * m.hidden * 4 * ranks;
  return {exchanged * (m.heads + 2 * kv_heads), exchanged * m.heads, 2 * reduced * m.layers, reduced,
          (sp - 1) * sampled * m.hidden * 4 * tp};
}

double sent(const parallel::TrafficSums& before, Traffic kind) {
  const auto i = static_cast<std::size_t>(kind);
  return test_world->sum(static_cast<double>(test_world->traffic()[i].bytes - before[i].bytes));
}

TEST(Volumes, AreThoseOfTheFormulas) {
  Golden golden = read_golden("qwen3");
  golden.config["num_attention_heads"] = 8;
  golden.config["num_key_value_heads"] = 4;
  golden.config["head_dim"] = 16;
  golden.config["vocab_size"] = 640;
  const SharedDirectory directory(
      [&](const auto& path) { std::ofstream(path / "config.json") << golden.config; });
  const model::ModelConfig config = model::read_model_config(directory.path());
  for (const parallel::Degrees& degrees : degrees_here(config.shape, true)) {
    const parallel::DeviceMesh mesh(*test_world, degrees);
    model::ModelOptions options = small_options(128, 64);
    options.mesh = &mesh;
    const auto model = model::Model::random(config, options, 1);
    for (const Layout layout : {Layout::base, Layout::shift}) {
      if (layout == Layout::shift && !can_shift(config.shape, degrees)) continue;
      const parallel::TrafficSums before = test_world->traffic();
      TestSequence a = make_sequence(1, std::vector<TokenId>(101, 3), 0, 128);
      TestSequence b = make_sequence(2, std::vector<TokenId>(38, 4), 16, 128);
      step(*model, {&a, &b}, {101, 38}, layout);  // 139 tokens: no multiple of the ranks; two rows sample
      const Volume want = formula(config.shape, degrees, layout, 139, 2);
      const double replicas = mesh.replicas();
      const std::string where =
          std::to_string(degrees.sequence) + " x " + std::to_string(degrees.tensor) + " " + name_of(layout);
      EXPECT_EQ(sent(before, Traffic::qkv_exchange), want.qkv * replicas) << where;
      EXPECT_EQ(sent(before, Traffic::attention_exchange), want.attention * replicas) << where;
      EXPECT_EQ(sent(before, Traffic::reduction), want.reduction * replicas) << where;
      EXPECT_EQ(sent(before, Traffic::embedding), want.embedding * replicas) << where;
      EXPECT_EQ(sent(before, Traffic::sampled_rows), want.rows * replicas) << where;
      // Greedy rows: a flag and one candidate from every rank to every other.
      EXPECT_EQ(sent(before, Traffic::sampling), replicas * degrees.ranks() * (degrees.ranks() - 1) * 2 * 12)
          << where;
    }
  }
}

}  // namespace
}  // namespace nightshift::test
