// SPDX-License-Identifier: Apache-2.0
// Model as its callers see it: plans it refuses, padding it never samples, numbers gone bad.
#include "model/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/check.h"
#include "kernels/kernels.h"
#include "model/golden_models.h"

namespace nightshift::test {
namespace {

constexpr int kContext = 64;

class ModelDoor : public testing::Test {
 protected:
  ModelDoor() : golden_(read_golden("qwen2_window")) { write_model(golden_, directory_.path()); }
  std::unique_ptr<model::Model> load(const model::ModelOptions& options = small_options(kContext)) const {
    return model::Model::load(model::open_model_files(directory_.path()), options);
  }
  std::string refusal(model::Model& model, const PlannedSequence& sequence) const {
    return message_of<Error>([&] {
      BatchPlan plan;
      plan.sequences.push_back(sequence);
      model.submit(plan);
    });
  }

  Golden golden_;
  TempDir directory_;
};

TEST_F(ModelDoor, RefusesPlansThatCannotBe) {
  const auto model = load();
  TestSequence sequence = make_sequence(4, {5, 6, 7}, 0, kContext);
  const auto with = [&](auto change) {
    PlannedSequence planned = sequence.plan(3);
    change(planned);
    return refusal(*model, planned);
  };
  EXPECT_NE(with([](auto& p) { p.num_tokens = 0; }).find("sequence 4"), std::string::npos);
  EXPECT_NE(with([](auto& p) { p.num_tokens = 4; }).find("known"), std::string::npos);
  EXPECT_NE(with([](auto& p) { p.blocks = p.blocks.first(0); }).find("KV blocks"), std::string::npos);
  EXPECT_NE(with([](auto& p) { p.computed = kContext; }).find("max_context"), std::string::npos);
  EXPECT_NE(with([](auto& p) { p.sampling = nullptr; }).find("parameters"), std::string::npos);
  for (const TokenId id : {-1, 160}) {
    sequence.tokens[1] = id;
    EXPECT_NE(refusal(*model, sequence.plan(3)).find("not in a vocabulary of 160"), std::string::npos);
  }
  EXPECT_NE(message_of<Error>([&] { model->collect(); }).find("submitted"), std::string::npos);
}

TEST_F(ModelDoor, AnEmptyPlanGivesAnEmptyResult) {
  const auto model = load();
  BatchPlan plan;
  plan.step = 12;
  model->submit(plan);
  const StepResult result = model->collect();
  EXPECT_EQ(result.step, 12u);
  EXPECT_TRUE(result.tokens.empty());
}

TEST_F(ModelDoor, ResultsComeInOrder) {
  const auto model = load();
  for (std::uint64_t i = 0; i < 3; ++i) {
    BatchPlan plan;
    plan.step = i;
    model->submit(plan);
  }
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_EQ(model->collect().step, i);
}

TEST_F(ModelDoor, NeverSamplesBeyondTheTokenizer) {
  model::ModelOptions options = small_options(kContext);
  options.tokenizer_size = 3;
  const auto model = load(options);
  TestSequence sequence = make_sequence(1, {5, 6, 150}, 0, kContext);  // the prompt may hold any id
  sequence.sampling.temperature = 5.0;
  while (sequence.tokens.size() < 40) {
    step(*model, {&sequence}, {static_cast<int>(sequence.tokens.size()) - sequence.computed});
    EXPECT_LT(sequence.tokens.back(), 3);
  }
}

// A NaN fails the sequence that has it, and nothing else: not its neighbour, not the next owner of its KV
// blocks.
TEST_F(ModelDoor, NanStaysWithItsSequence) {
  constexpr TokenId kPoison = 9;
  auto embedding =
      weight_values("model.embed_tokens.weight", golden_.tensors.at("model.embed_tokens.weight"), 0.4);
  const std::size_t hidden = golden_.config.at("hidden_size");
  embedding[kPoison * hidden] = std::numeric_limits<float>::quiet_NaN();
  const auto files = model::open_model_files(directory_.path());
  {
    std::fstream file(directory_.path() / "model.safetensors",
                      std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(files.checkpoint.find("model.embed_tokens.weight")->offset));
    file << encode(embedding, "BF16");
  }
  for (const std::string& kernels : kernels::available_kernel_sets()) {
    model::ModelOptions options = small_options(kContext);
    options.kernels = kernels;
    const auto model = load(options);
    const std::vector<TokenId> healthy(21, 33);
    TestSequence alone = make_sequence(1, healthy, 20, kContext);
    step(*model, {&alone}, {21});
    const std::vector<float> want(model->logits(0).begin(), model->logits(0).end());

    TestSequence sick = make_sequence(2, std::vector<TokenId>(40, kPoison), 0, kContext);
    TestSequence neighbour = make_sequence(3, healthy, 10, kContext);
    const StepResult result = step(*model, {&sick, &neighbour}, {40, 21});
    EXPECT_TRUE(result.tokens.at(0).failed());
    EXPECT_FALSE(result.tokens.at(1).failed());
    EXPECT_EQ(std::vector<float>(model->logits(1).begin(), model->logits(1).end()), want) << kernels;

    TestSequence heir =
        make_sequence(4, healthy, 0, kContext);  // blocks 0 and 1 still hold NaN behind its tokens
    step(*model, {&heir}, {21});
    EXPECT_EQ(std::vector<float>(model->logits(0).begin(), model->logits(0).end()), want) << kernels;
  }
}

TEST_F(ModelDoor, RandomWeightsGiveFiniteLogits) {
  const auto config = model::open_model_files(directory_.path()).config;
  const auto model = model::Model::random(config, small_options(kContext), 1);
  TestSequence sequence = make_sequence(1, {1, 2, 3}, 0, kContext);
  step(*model, {&sequence}, {3});
  double squares = 0.0;
  for (const float logit : model->logits(0))
    squares += static_cast<double>(logit) * static_cast<double>(logit);
  EXPECT_GT(squares, 0.0);
  EXPECT_TRUE(std::isfinite(squares));
}

TEST_F(ModelDoor, TimesAddUp) {
  const auto model = load();
  TestSequence sequence = make_sequence(1, golden_.prompt, 0, kContext);
  const double seconds = step(*model, {&sequence}, {40}).compute_seconds;
  double sum = 0.0;
  for (const auto& op : model->times()) sum += op.seconds;
  EXPECT_GT(sum, 0.0);
  EXPECT_LE(sum, seconds);
}

}  // namespace
}  // namespace nightshift::test
