// SPDX-License-Identifier: Apache-2.0
// Against Hugging Face transformers: every family, every RoPE kind, every way a checkpoint can be written.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "kernels/kernels.h"
#include "model/golden_models.h"

namespace nightshift::test {
namespace {

// Against transformers in fp32, over all steps together. What is left is the rounding of activations to bf16.
constexpr double kTolerance = 1e-2;
// The portable kernels against transformers with the same rounding, behind the tokens of the prompt. Only the
// order of sums differs, but once that pushes a value over to the neighbouring bf16 number, the differences
// grow to the size of the rounding itself. The best of the later tokens shows whether the method is the same:
// an error of method would be in all of them. (The vector kernels round softmax weights to bf16 as well.)
constexpr double kRoundedTolerance = 5e-4;
constexpr std::size_t kFirstLater = 4;

struct Error {
  double plain = 0.0;         // relative L2 error over all steps, transformers in fp32
  double plain_worst = 0.0;   // of one step
  double rounded = 0.0;       // the same against bf16 inputs
  double rounded_best = 0.0;  // of one step
  int compared = 0;           // steps whose margin exceeds the error
  int agreed = 0;             // of those, the same greedy token
};

struct Difference {
  double squares = 0.0, norm = 0.0, largest = 0.0, worst = 0.0, best = 1.0;
  void add(std::span<const float> got, std::span<const float> want) {
    double here = 0.0, size = 0.0;
    largest = 0.0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
      here += d * d;
      size += static_cast<double>(want[i]) * static_cast<double>(want[i]);
      largest = std::max(largest, std::abs(d));
    }
    squares += here;
    norm += size;
    worst = std::max(worst, std::sqrt(here / size));
    best = std::min(best, std::sqrt(here / size));
  }
  double relative() const { return std::sqrt(squares / norm); }
};

float margin(std::span<const float> logits) {
  std::vector<float> sorted(logits.begin(), logits.end());
  std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<>());
  return sorted[0] - sorted[1];
}

// The prompt token by token.
double best_rounded(model::Model& model, const Golden& golden) {
  const auto vocab = static_cast<std::size_t>(model.config().shape.vocab);
  TestSequence sequence = make_sequence(7, {}, 40, golden.max_context);
  Difference difference;
  for (std::size_t i = 0; i < golden.prompt.size(); ++i) {
    sequence.tokens.resize(i);
    sequence.tokens.push_back(golden.prompt[i]);
    step(model, {&sequence}, {1});
    if (i >= kFirstLater)
      difference.add(model.logits(0), std::span(golden.rounded).subspan(i * vocab, vocab));
  }
  return difference.best;
}

// Greedy, but fed the reference's tokens, so that one near-tie does not end the comparison.
Error compare(model::Model& model, const Golden& golden) {
  const auto vocab = static_cast<std::size_t>(model.config().shape.vocab);
  TestSequence sequence = make_sequence(1, golden.prompt, 3, golden.max_context);
  Difference difference;
  Error error;
  for (std::size_t i = 0; i < golden.tokens.size(); ++i) {
    const int pending = static_cast<int>(sequence.tokens.size()) - sequence.computed;
    const StepResult result = step(model, {&sequence}, {pending});
    const auto want = std::span(golden.logits).subspan(i * vocab, vocab);
    difference.add(model.logits(0), want);
    if (margin(want) > 2 * difference.largest) {
      ++error.compared;
      error.agreed += result.tokens.at(0).token == golden.tokens[i];
    }
    sequence.tokens.back() = golden.tokens[i];
  }
  error.plain = difference.relative();
  error.plain_worst = difference.worst;
  error.rounded_best = best_rounded(model, golden);
  return error;
}

Error compare_directory(const std::filesystem::path& directory, const Golden& golden,
                        const std::string& kernels) {
  model::ModelOptions options = small_options(golden.max_context);
  options.kernels = kernels;
  const auto files = model::open_model_files(directory);
  const auto model = model::Model::load(files, options);
  return compare(*model, golden);
}

void expect_close(const std::string& label, const Error& error) {
  std::printf("%-30s fp32: %.5f (worst step %.5f)  bf16 inputs: %.7f  greedy %d/%d\n", label.c_str(),
              error.plain, error.plain_worst, error.rounded_best, error.agreed, error.compared);
  EXPECT_LE(error.plain, kTolerance) << label;
  if (label.ends_with("portable")) {
    EXPECT_LE(error.rounded_best, kRoundedTolerance) << label;
  }
  EXPECT_EQ(error.agreed, error.compared) << label;
  EXPECT_GE(error.compared, 48) << label << ": too few steps with a clear winner";
}

// Kernel sets for heads of this model: GPUs take some sizes only, and say so.
std::vector<std::string> sets_for(const std::filesystem::path& directory) {
  const int head_dim = model::open_model_files(directory).config.shape.head_dim;
  std::vector<std::string> sets;
  for (const std::string& kernels : kernels::available_kernel_sets()) {
    const bool taken = kernels::make_backend({.kernels = kernels})->takes_head_dim(head_dim);
    EXPECT_TRUE(taken || kernels.starts_with("cuda")) << kernels << ", heads of " << head_dim;
    if (taken) sets.push_back(kernels);
  }
  return sets;
}

class Goldens : public testing::TestWithParam<std::string> {};

TEST_P(Goldens, AgreesWithTransformers) {
  const Golden golden = read_golden(GetParam());
  ASSERT_EQ(golden.tokens.size(), 64u);
  TempDir directory;
  if (!golden.config.is_null()) write_model(golden, directory.path());
  const auto path = golden.config.is_null() ? goldens_path() / "saved" : directory.path();
  for (const std::string& kernels : sets_for(path))
    expect_close(GetParam() + " " + kernels, compare_directory(path, golden, kernels));
}

INSTANTIATE_TEST_SUITE_P(Families, Goldens, testing::ValuesIn(golden_names()),
                         [](const auto& instance) { return instance.param; });

TEST(Goldens, CoverEveryFamily) {
  EXPECT_GE(golden_names().size(), 16u);
}

// The same values in another element type, in shards, or inside a multimodal wrapper: the same bits come out.
TEST(CheckpointForms, GiveTheSameBits) {
  const Golden golden = read_golden("llama3");
  const auto logits_of = [&](const Written& how) {
    TempDir directory;
    write_model(golden, directory.path(), how);
    const auto files = model::open_model_files(directory.path());
    const auto model = model::Model::load(files, small_options(golden.max_context));
    TestSequence sequence = make_sequence(1, golden.prompt, 0, golden.max_context);
    step(*model, {&sequence}, {static_cast<int>(golden.prompt.size())});
    const auto row = model->logits(0);
    return std::vector<float>(row.begin(), row.end());
  };
  const auto plain = logits_of({});
  EXPECT_EQ(logits_of({"F32", 1, "", false}), plain);
  EXPECT_EQ(logits_of({"BF16", 5, "", false}), plain);
  EXPECT_EQ(logits_of({"BF16", 3, "language_model.", true}), plain);
  // f16 cannot hold the smallest bf16 values exactly; what it changes stays far below bf16's own rounding.
  const auto half = logits_of({"F16", 1, "", false});
  Difference difference;
  difference.add(half, plain);
  EXPECT_LT(difference.relative(), 1e-3);
}

TEST(Load, ReportsProgressAndStaysWithinTheEstimate) {
  const Golden golden = read_golden("qwen2");
  TempDir directory;
  write_model(golden, directory.path());
  const auto files = model::open_model_files(directory.path());
  model::LoadProgress last;
  const auto options = small_options(golden.max_context);
  const auto model = model::Model::load(files, options, [&](const model::LoadProgress& now) {
    EXPECT_GT(now.bytes, last.bytes);
    last = now;
  });
  EXPECT_EQ(last.bytes, last.total);
  EXPECT_EQ(last.total, files.checkpoint.tensor_bytes());
  const auto need = model::bytes_needed(files.config, options.limits), used = model->memory();
  EXPECT_LE(used.weights, need.weights);
  EXPECT_LE(used.kv_cache, need.kv_cache);
  EXPECT_LE(used.step_buffers, need.step_buffers);
  EXPECT_GE(used.total(), need.total() / 2);
}

TEST(Load, RefusesAContextTheModelWasNotMadeFor) {
  const Golden golden = read_golden("llama_mha");
  TempDir directory;
  write_model(golden, directory.path());
  const auto files = model::open_model_files(directory.path());
  const auto message = message_of<BadInput>([&] { (void)model::Model::load(files, small_options(129)); });
  EXPECT_NE(message.find("max_context 129"), std::string::npos) << message;
  EXPECT_NE(message.find("1 .. 128"), std::string::npos) << message;
}

TEST(Load, SaysWhichFileHasBecomeShorter) {
  const Golden golden = read_golden("llama_mha");
  TempDir directory;
  write_model(golden, directory.path());
  const auto files = model::open_model_files(directory.path());
  std::filesystem::resize_file(directory.path() / "model.safetensors", 20000);
  const auto message =
      message_of<nightshift::Error>([&] { (void)model::Model::load(files, small_options(64)); });
  EXPECT_NE(message.find("model.safetensors"), std::string::npos) << message;
  EXPECT_NE(message.find("shorter"), std::string::npos) << message;
}

}  // namespace
}  // namespace nightshift::test
