// SPDX-License-Identifier: Apache-2.0
// Teacher-forced likelihood of 200 questions and their answers: the same to the last bit in every geometry
// and pattern of shifts, and that of transformers within the precision of bf16. Greedy text can hide a layout
// that is wrong in a part of the cache; the likelihood of every token cannot.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "model/ranks/ranks.h"

namespace nightshift::test {
namespace {

struct Row {
  int given;  // tokens that are read; the rest is scored
  std::vector<TokenId> tokens;
};
struct Rows {
  std::vector<Row> rows;
  double nll;  // mean over scored tokens, by transformers
};

Rows read_rows() {
  const auto file = std::filesystem::path(NIGHTSHIFT_SOURCE_DIR) / "tests/model/ranks/likelihoods.json";
  const auto json = nlohmann::json::parse(std::ifstream(file));
  Rows all{{}, json.at("nll")};
  for (const auto& row : json.at("rows")) all.rows.push_back({row.at("given"), row.at("tokens")});
  return all;
}

double logprob(std::span<const float> logits, TokenId token) {
  const double maximum = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - maximum);
  return static_cast<double>(logits[static_cast<std::size_t>(token)]) - maximum - std::log(sum);
}

constexpr int kContext = 48;
constexpr int kBatch = 40;

// Mean negative log-likelihood: what is given in one go, the rest token by token, rows in batches, each step
// in the layout of the pattern.
double likelihood(model::Model& model, const std::vector<Row>& rows, const LayoutOfStep& layout) {
  double total = 0.0;
  int count = 0, steps = 0;
  for (std::size_t first = 0; first < rows.size(); first += kBatch) {
    std::vector<TestSequence> sequences;
    for (std::size_t i = first; i < std::min(rows.size(), first + kBatch); ++i) {
      const auto& row = rows[i];
      sequences.push_back(make_sequence(i + 1, {row.tokens.begin(), row.tokens.begin() + row.given},
                                        static_cast<BlockId>(i - first) * (kContext / kKvBlockTokens),
                                        kContext));
    }
    for (bool more = true; more; ++steps) {
      std::vector<TestSequence*> batch;
      std::vector<int> counts;
      int tokens = 0;
      for (std::size_t i = 0; i < sequences.size(); ++i) {
        TestSequence& s = sequences[i];
        const int pending = static_cast<int>(s.tokens.size()) - s.computed;
        if (s.tokens.size() == rows[first + i].tokens.size() || tokens + pending > 1000) continue;
        tokens += pending;
        batch.push_back(&s);
        counts.push_back(pending);
      }
      more = !batch.empty();
      if (!more) break;
      step(model, batch, counts, layout(steps));
      for (std::size_t r = 0; r < batch.size(); ++r) {
        TestSequence& s = *batch[r];
        const TokenId right = rows[s.id - 1].tokens[s.tokens.size() - 1];
        total -= logprob(model.logits(static_cast<int>(r)), right);
        s.tokens.back() = right;  // whatever was sampled
        ++count;
      }
    }
  }
  return total / count;
}

TEST(Likelihood, DoesNotDependOnLayouts) {
  const Rows want = read_rows();
  const auto directory = std::filesystem::path(NIGHTSHIFT_SOURCE_DIR) / "inputs/models/tiny-tasks";
  const model::ModelFiles files = model::open_model_files(directory);
  model::ModelOptions options;
  options.limits = {.max_context = kContext,
                    .max_query_tokens = 1024,
                    .max_sampled_rows = kBatch,
                    .kv_blocks = kBatch * kContext / kKvBlockTokens};
  const auto single = model::Model::load(files, options);
  const double nll = likelihood(*single, want.rows, [](int) { return parallel::Layout::base; });
  EXPECT_NEAR(nll, want.nll, 2e-3 * want.nll);
  for (const parallel::Degrees& degrees : degrees_here(files.config.shape, false)) {
    if (degrees.ranks() == 1 && test_world->size() > 1) continue;
    const parallel::DeviceMesh mesh(*test_world, degrees);
    options.mesh = &mesh;
    const auto model = model::Model::load(files, options);
    for (const Pattern& pattern : patterns(can_shift(files.config.shape, degrees)))
      EXPECT_EQ(likelihood(*model, want.rows, pattern.layout), nll)
          << degrees.sequence << " x " << degrees.tensor << " " << pattern.name;
  }
}

}  // namespace
}  // namespace nightshift::test
