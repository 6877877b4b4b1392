// SPDX-License-Identifier: Apache-2.0
// Every row that the GPU samples is sampled by Sampler, too: same token, same bits of every log-probability,
// same list. On a GPU, or on the simulated one that ctest names.
#include "model/device_sampling.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include "kernels/gpu.h"

namespace nightshift::model {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kPadding = 3;  // columns that are no tokens, all NaN

using Random = std::mt19937_64;

template <class T>
T one_of(Random& random, std::initializer_list<T> values) {
  return values.begin()[random() % values.size()];
}
double normal(Random& random) {
  return std::normal_distribution<double>()(random);
}

struct Given {
  SamplingParams params;
  std::vector<TokenId> tokens{0};
  int prompt_tokens = 1;
  std::uint64_t key = 1;
  std::vector<float> logits;  // [vocab]

  // Without the last `missing` tokens, as in an overlapped step.
  PlannedSequence planned(std::size_t missing = 0) const {
    PlannedSequence s;
    s.id = 1000 + key;
    s.computed = static_cast<int>(tokens.size()) - 1;
    s.num_tokens = 1;
    s.samples = true;
    s.prompt_tokens = prompt_tokens;
    s.tokens = std::span(tokens).first(tokens.size() - missing);
    s.sampling = &params;
    s.random_key = key;
    return s;
  }
};

std::vector<float> random_logits(int vocab, Random& random) {
  std::vector<float> row(static_cast<std::size_t>(vocab));
  const int kind = static_cast<int>(random() % 10);
  const double scale = one_of(random, {0.01, 1.0, 3.0, 20.0});
  for (float& x : row) {
    const double value = normal(random);
    switch (kind) {
      case 0:
        x = 1.5F;
        break;  // flat
      case 1:
        x = static_cast<float>(static_cast<int>(random() % 4)) - 2.0F;
        break;  // ties, and zero
      case 2:
        x = random() % 2 == 0 ? 0.0F : -0.0F;
        break;
      case 3:
        x = random() % 3 == 0 ? static_cast<float>(value) : -kInfinity;
        break;
      case 4:
        x = static_cast<float>(value * 1e37);
        break;
      case 5:
        x = std::bit_cast<float>(0x3f800000U + static_cast<std::uint32_t>(random() % 64));
        break;
      default:
        x = static_cast<float>(value * scale);
    }
  }
  if (kind >= 8)  // as language models: a few stand out
    for (int i = 0; i < 20; ++i) row[random() % row.size()] += static_cast<float>(5.0 * i / 4.0);
  if (random() % 16 == 0) row[random() % row.size()] = one_of(random, {kNan, kInfinity, -kInfinity, -kNan});
  if (random() % 64 == 0) std::fill(row.begin(), row.end(), -kInfinity);
  return row;
}

SamplingParams random_params(int vocab, Random& random) {
  SamplingParams p;
  p.temperature = one_of(random, {0.0, 1e-6, 1e-4, 0.1, 0.7, 1.0, 1.0, 1.5, 10.0, 1e6});
  p.top_p = one_of(random, {1.0, 1.0, 0.0, 1e-9, 0.1, 0.5, 0.9, 0.95, 0.999999, 1.0 - 1e-16});
  p.top_k = one_of<std::int64_t>(random, {0, 0, 0, 1, 2, 5, 40, vocab / 2, vocab, 10LL * vocab});
  p.min_p = one_of(random, {0.0, 0.0, 0.0, 1e-6, 0.05, 0.3, 1.0});
  p.repetition_penalty = one_of(random, {1.0, 1.0, 1.1, 2.0, 0.5});
  p.presence_penalty = one_of(random, {0.0, 0.0, 1.5, -1.0});
  p.frequency_penalty = one_of(random, {0.0, 0.0, 0.3, -0.5});
  if (random() % 64 == 0) p.presence_penalty = -1e39;  // makes +infinity
  p.logprobs = one_of<std::int64_t>(random, {0, 0, 1, 5, 20});
  p.min_tokens = one_of<std::int64_t>(random, {0, 0, 5, 100});
  for (std::uint64_t i = random() % 4; i > 0; --i)
    p.stop_token_ids.push_back(static_cast<TokenId>(random() % static_cast<std::uint64_t>(vocab + 2)));
  return p;
}

Given random_given(int vocab, Random& random) {
  Given given;
  given.params = random_params(vocab, random);
  given.logits = random_logits(vocab, random);
  given.key = random();
  given.tokens.clear();
  const auto range = static_cast<std::uint64_t>(std::min(vocab, one_of(random, {8, 100, vocab})));
  for (std::uint64_t i = 2 + random() % 60; i > 0; --i)
    given.tokens.push_back(static_cast<TokenId>(random() % range));
  given.prompt_tokens = static_cast<int>(1 + random() % given.tokens.size());
  return given;
}

std::string words(const Given& given) {
  const SamplingParams& p = given.params;
  return fmt::format(
      "vocab {}, temperature {}, top_p {}, top_k {}, min_p {}, penalties {} {} {}, logprobs {}, min_tokens "
      "{}, {} tokens, {} of the prompt",
      given.logits.size(), p.temperature, p.top_p, p.top_k, p.min_p, p.repetition_penalty, p.presence_penalty,
      p.frequency_penalty, p.logprobs, p.min_tokens, given.tokens.size(), given.prompt_tokens);
}

bool same(const SampledToken& a, const SampledToken& b) {
  const auto bits = [](float x) { return std::bit_cast<std::uint32_t>(x); };
  return a.id == b.id && a.token == b.token && bits(a.logprob) == bits(b.logprob) &&
         std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(),
                    [&](const TokenLogprob& x, const TokenLogprob& y) {
                      return x.token == y.token && bits(x.logprob) == bits(y.logprob);
                    });
}

class DeviceSamplingTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_GT(kernels::gpu_count(), 0) << kernels::why_no_gpu() << " (ctest names the simulated one)";
    kernels::BackendOptions options;
    options.device = kernels::Device::cuda;
    backend_ = kernels::make_backend(options);
  }
  void TearDown() override { set_order(0); }

  // Of threads between barriers; a real GPU has its own.
  static void set_order(int order) {
    const char* library = std::getenv("NIGHTSHIFT_CUDA_LIBRARY");
    void* handle = library == nullptr ? nullptr : ::dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return;
    if (void* set = ::dlsym(handle, "nightshift_simulator_order"); set != nullptr)
      reinterpret_cast<void (*)(int, std::uint64_t)>(set)(order, 7);
    ::dlclose(handle);
  }

  // Rows of one call, on the GPU and on the host. Every other row's last token, if it was
  // sampled, is known to the GPU alone.
  void compare(const std::vector<Given>& rows, const std::vector<TokenId>& stops) {
    const int vocab = static_cast<int>(rows[0].logits.size());
    const Sampler sampler(vocab, stops);
    DeviceSampling device(sampler, *backend_, static_cast<int>(rows.size()), 2);
    const std::int64_t width = vocab + kPadding;
    std::vector<float> logits(rows.size() * static_cast<std::size_t>(width), kNan);
    std::vector<PlannedSequence> planned;
    std::vector<TokenId> previous;
    std::vector<std::int32_t> pending;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::copy(rows[i].logits.begin(), rows[i].logits.end(),
                logits.begin() + static_cast<std::ptrdiff_t>(i) * width);
      const bool missing = i % 2 == 1 && rows[i].planned().output_position() > 0;
      planned.push_back(rows[i].planned(missing ? 1 : 0));
      pending.push_back(missing ? static_cast<std::int32_t>(rows.size() - 1 - i) : -1);
    }
    for (std::size_t i = 0; i < rows.size(); ++i) previous.push_back(rows[rows.size() - 1 - i].tokens.back());
    std::vector<const PlannedSequence*> pointers;
    for (const PlannedSequence& p : planned) pointers.push_back(&p);

    const std::size_t bytes = logits.size() * sizeof(float);
    const kernels::Buffer on_device = backend_->allocate(bytes, "test::logits");
    const kernels::Buffer tokens_before =
        backend_->allocate(previous.size() * sizeof(TokenId), "test::tokens");
    backend_->copy_to_device(on_device.data(), logits.data(), bytes);
    backend_->copy_to_device(tokens_before.data(), previous.data(), previous.size() * sizeof(TokenId));
    device.start(1, {on_device.as<float>(), static_cast<std::int64_t>(rows.size()), width}, pointers, pending,
                 tokens_before.as<TokenId>());
    std::vector<float> after(logits.size());
    backend_->copy_to_host(after.data(), on_device.data(), bytes);
    EXPECT_TRUE(std::equal(after.begin(), after.end(), logits.begin(), [](float a, float b) {
      return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
    })) << "logits are not what they were";

    const std::vector<SampledToken> got = device.result(1);
    std::vector<TokenId> tokens(rows.size());
    backend_->copy_to_host(tokens.data(), device.tokens(1), tokens.size() * sizeof(TokenId));
    Sampler::Scratch scratch;
    ASSERT_EQ(got.size(), rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const SampledToken expected = sampler.sample(rows[i].logits, rows[i].planned(), scratch);
      EXPECT_TRUE(same(got[i], expected)) << "row " << i << ": token " << got[i].token << " instead of "
                                          << expected.token << "; " << words(rows[i]);
      EXPECT_EQ(tokens[i], got[i].token);
      failed_ += expected.failed() ? 1 : 0;
    }
    compared_ += static_cast<int>(rows.size());
  }

  void compare_random(int calls, int rows, std::initializer_list<int> vocabularies, std::uint64_t seed) {
    Random random(seed);
    for (int call = 0; call < calls && !HasFailure(); ++call) {
      const int vocab = one_of(random, vocabularies);
      std::vector<Given> given;
      for (int i = 0; i < rows; ++i) given.push_back(random_given(vocab, random));
      compare(given, {static_cast<TokenId>(random() % 10), static_cast<TokenId>(vocab - 1)});
    }
  }

  std::unique_ptr<kernels::Backend> backend_;
  int compared_ = 0, failed_ = 0;
};

TEST_F(DeviceSamplingTest, SmallVocabularies) {
  compare_random(250, 16, {5, 6, 31, 32, 33, 100, 257, 1000}, 1);
  EXPECT_EQ(compared_, 4000);
  EXPECT_GT(failed_, 100);
  EXPECT_LT(failed_, 1000);
}

TEST_F(DeviceSamplingTest, MoreThanOneChunk) {
  compare_random(100, 8, {2047, 2048, 2049, 4096, 8000}, 2);
}

TEST_F(DeviceSamplingTest, LargeVocabularies) {
  compare_random(8, 4, {32000, 128256, 151936}, 3);
}

TEST_F(DeviceSamplingTest, ManyRowsOfALargeVocabulary) {
  compare_random(1, 130, {8193}, 4);
}

// What a missing barrier would change.
TEST_F(DeviceSamplingTest, AnyOrderOfThreads) {
  for (const int order : {1, 2}) {
    set_order(order);
    compare_random(20, 8, {33, 1000, 5000}, 5);
    compare_random(1, 4, {20000}, 6);
  }
}

// As many digits as a key has: all values, or all but the last bits, are equal. Then whole digits of ids fill
// a chunk to the last place.
TEST_F(DeviceSamplingTest, TiesBeyondOneChunk) {
  Random random(7);
  std::vector<Given> rows;
  const auto add = [&](double top_p, std::int64_t top_k, std::size_t larger) {
    Given given;
    given.params.temperature = 1.0;
    given.params.top_p = top_p;
    given.params.top_k = top_k;
    given.params.logprobs = 3000;  // a list of several chunks
    given.key = random();
    given.logits.assign(9000, 1.0F);
    for (std::size_t i = 0; i < larger; ++i) given.logits[random() % 9000] = std::nextafter(1.0F, 2.0F);
    rows.push_back(std::move(given));
  };
  for (const double top_p : {0.0001, 0.3, 0.5, 0.99})
    for (const std::int64_t top_k : {0, 2047, 2048, 2049, 7000})
      for (const std::size_t larger : {0, 4000}) add(top_p, top_k, larger);
  compare(rows, {});
}

// As many tokens as a key can tell apart.
TEST_F(DeviceSamplingTest, TheLargestVocabulary) {
  constexpr int kMost = 1 << 20;
  EXPECT_THROW(backend_->make_sampler(kMost + 1), Error);
  Random random(9);
  std::vector<Given> rows(2);
  for (Given& given : rows) {
    given.params.temperature = 1.0;
    given.params.logprobs = 1;
    given.key = random();
    given.logits.assign(kMost, 0.0F);
    given.logits.back() = 12.0F;
  }
  rows[1].params.top_k = 3;
  compare(rows, {});
}

// Rows whose u the test chooses, in calls of the kernel itself.
class DeviceSamplingGivenUniform : public DeviceSamplingTest {
 protected:
  static constexpr int kVocab = 5000;

  // By all of the row's ways: everything, top-k in one chunk, top-k in several.
  void add(double u, const std::vector<float>& row, TokenId all, TokenId of_60) {
    for (const std::int32_t top_k : {0, 60, kVocab}) {
      kernels::SamplingRow wanted{};
      wanted.u = u;
      wanted.top_p = 1.0;
      wanted.top_k = top_k;
      wanted.repetition_penalty = 1.0;
      wanted.inverse_temperature = 1.0F;
      wanted.pending = -1;
      rows_.push_back(wanted);
      logits_.insert(logits_.end(), row.begin(), row.end());
      expected_.push_back(top_k == 60 ? of_60 : all);
    }
  }

  template <class T>
  kernels::Buffer up(const std::vector<T>& values) {
    kernels::Buffer buffer = backend_->allocate(values.size() * sizeof(T), "test");
    backend_->copy_to_device(buffer.data(), values.data(), buffer.bytes());
    return buffer;
  }

  std::vector<TokenId> sample() {
    const kernels::Buffer logits = up(logits_), rows = up(rows_), tokens = up(expected_);
    const kernels::Buffer results = up(std::vector<kernels::SampledRow>(rows_.size()));
    kernels::SamplingCall call;
    call.rows = rows.as<kernels::SamplingRow>();
    call.tokens = tokens.as<TokenId>();
    call.results = results.as<kernels::SampledRow>();
    const auto count = static_cast<std::int64_t>(rows_.size());
    const auto sampler = backend_->make_sampler(kVocab);
    sampler->sample({logits.as<float>(), count, kVocab}, call);
    std::vector<TokenId> got(rows_.size(), -2);
    backend_->copy_to_host(got.data(), tokens.data(), got.size() * sizeof(TokenId));
    return got;
  }

  std::vector<kernels::SamplingRow> rows_;
  std::vector<float> logits_;
  std::vector<TokenId> expected_;
};

// The first and the last token that have a weight.
TEST_F(DeviceSamplingGivenUniform, EndsOfTheUnitInterval) {
  constexpr TokenId kFirst = 70, kLast = 4321;
  Random random(10);
  std::vector<float> row(kVocab, -kInfinity);
  for (std::size_t c = kFirst; c <= kLast; ++c) row[c] = static_cast<float>(normal(random));
  row[kFirst] = row[kLast] = 5.0F;
  add(0.0, row, kFirst, kFirst);
  add(1.0 - 0x1p-53, row, kLast, kLast);
  EXPECT_EQ(sample(), expected_);
}

// The running sum must exceed u times the total: being equal to it is not enough.
TEST_F(DeviceSamplingGivenUniform, ExactlyAtASum) {
  const std::vector<float> row(kVocab, 3.0F);
  add(0.5, row, kVocab / 2, 30);
  add(0.25, row, kVocab / 4, 15);
  EXPECT_EQ(sample(), expected_);
}

// A slot keeps its results while the other one starts; the second step reads the first one's tokens.
TEST_F(DeviceSamplingTest, TwoStepsInFlight) {
  Random random(8);
  constexpr int kVocab = 500, kRows = 6;
  const Sampler sampler(kVocab, {});
  DeviceSampling device(sampler, *backend_, kRows, 2);
  std::vector<Given> rows;
  std::vector<float> logits;
  for (int i = 0; i < kRows; ++i) {
    Given given;
    given.params.temperature = i % 2;
    given.params.frequency_penalty = 40.0;  // the same token never comes twice in a row
    given.key = random();
    for (int c = 0; c < kVocab; ++c) given.logits.push_back(static_cast<float>(4.0 * normal(random)));
    logits.insert(logits.end(), given.logits.begin(), given.logits.end());
    rows.push_back(std::move(given));
  }
  const kernels::Buffer on_device = backend_->allocate(logits.size() * sizeof(float), "test::logits");
  backend_->copy_to_device(on_device.data(), logits.data(), logits.size() * sizeof(float));
  std::vector<Given> longer = rows;
  const std::vector<std::int32_t> order{5, 4, 3, 2, 1, 0};  // rows of the first step, by those of the second
  std::vector<PlannedSequence> planned;
  for (const Given& given : rows) planned.push_back(given.planned());
  for (int i = 0; i < kRows; ++i) longer[static_cast<std::size_t>(i)].tokens.push_back(-1);
  for (const Given& given : longer) planned.push_back(given.planned(1));
  std::vector<const PlannedSequence*> first, second;
  for (std::size_t i = 0; i < kRows; ++i) {
    first.push_back(&planned[i]);
    second.push_back(&planned[kRows + static_cast<std::size_t>(order[i])]);
  }
  device.start(0, {on_device.as<float>(), kRows, kVocab}, first);
  device.start(1, {on_device.as<float>(), kRows, kVocab}, second, order, device.tokens(0));
  backend_->synchronize();
  const auto of_first = device.result(0), of_second = device.result(1);
  Sampler::Scratch scratch;
  for (std::size_t i = 0; i < kRows; ++i) {
    const SampledToken expected = sampler.sample(rows[i].logits, rows[i].planned(), scratch);
    EXPECT_TRUE(same(of_first[i], expected));
    longer[i].tokens.back() = expected.token;
  }
  for (std::size_t i = 0; i < kRows; ++i) {  // the second step's row i has the logits of row i
    const auto sequence = static_cast<std::size_t>(order[i]);
    const SampledToken expected = sampler.sample(rows[i].logits, longer[sequence].planned(), scratch);
    EXPECT_TRUE(same(of_second[i], expected));
  }
}

TEST_F(DeviceSamplingTest, NoRows) {
  const Sampler sampler(10, {});
  DeviceSampling device(sampler, *backend_, 1, 1);
  device.start(0, {nullptr, 0, 10}, {});
  EXPECT_TRUE(device.result(0).empty());
}

TEST_F(DeviceSamplingTest, CpusSampleOnTheHost) {
  const auto cpu = kernels::make_backend();
  if (cpu->device() == kernels::Device::cpu) {
    EXPECT_EQ(cpu->make_sampler(10), nullptr);
    EXPECT_THROW(DeviceSampling(Sampler(10, {}), *cpu, 1, 1), Error);
  }
}

}  // namespace
}  // namespace nightshift::model
