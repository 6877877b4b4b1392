// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdlib>

#include "kernels/support.h"

namespace nightshift::kernels::test {
namespace {

class Backends : public EveryKernelSet {};
INSTANTIATE_TEST_SUITE_P(Sets, Backends, ::testing::ValuesIn(available_kernel_sets()),
                         [](const auto& set) { return set.param; });

TEST_P(Backends, SayWhoTheyAre) {
  EXPECT_EQ(backend_->kernel_set(), GetParam());
  EXPECT_EQ(backend_->device(), on_gpu() ? Device::cuda : Device::cpu);
  EXPECT_EQ(make(3)->threads(), on_gpu() ? 1 : 3);
}

TEST_P(Backends, BuffersAreAlignedMovableAndWritable) {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{100}, std::size_t{9} << 20}) {
    Buffer buffer = backend_->allocate(bytes, "test::buffer");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0U);
    EXPECT_EQ(buffer.bytes(), bytes);
    const std::vector<char> sent(bytes, 'x');
    backend_->copy_to_device(buffer.data(), sent.data(), bytes);
    const Buffer moved = std::move(buffer);
    EXPECT_EQ(buffer.data(), nullptr);  // NOLINT(bugprone-use-after-move): the state after a move is promised
    std::vector<char> received(bytes);
    backend_->copy_to_host(received.data(), moved.data(), bytes);
    EXPECT_EQ(received, sent);
  }
  EXPECT_EQ(backend_->allocate(0, "test::nothing").data(), nullptr);
}

TEST_P(Backends, TooMuchMemoryIsAnErrorWithTheLabel) {
  try {
    backend_->allocate(std::size_t{1} << 60, "test::too_much");
    FAIL() << "an exabyte was granted";
  } catch (const Error& e) {
    EXPECT_NE(e.summary().find("test::too_much"), std::string::npos);
    EXPECT_FALSE(e.remedy().empty());
  }
}

TEST_P(Backends, KvCacheCountsItsBytes) {
  const KvShape shape{3, 2, 80, 10};
  const KvCache cache = backend_->make_kv_cache(shape);
  EXPECT_EQ(cache.bytes(), backend_->kv_block_bytes(shape) * 10);
  EXPECT_EQ(backend_->kv_block_bytes(shape), 3U * 2 * 16 * (80 + 80) * 2);
  EXPECT_THROW(backend_->make_kv_cache({3, 2, 81, 10}), Error);
}

TEST_P(Backends, MeasuredPeakIsPlausible) {
  if (slow()) GTEST_SKIP() << "the peak of a simulation says nothing";
  const PeakRates peak = backend_->measured_peak();
  EXPECT_GT(peak.bf16_flops, on_gpu() ? 1e12 : 1e8);
  EXPECT_LT(peak.bf16_flops, on_gpu() ? 1e16 : 1e14);
  EXPECT_GT(peak.read_bandwidth, on_gpu() ? 1e11 : 1e8);
  EXPECT_LT(peak.read_bandwidth, on_gpu() ? 1e14 : 1e13);
}

TEST_P(Backends, LaterCopiesAreThereWhenALaterMarkIsReached) {
  const std::vector<char> sent(1000, 'x');
  const Buffer device = backend_->allocate(sent.size(), "test::device");
  const Buffer host = backend_->allocate_host(sent.size(), "test::host");
  backend_->copy_to_device(device.data(), sent.data(), sent.size());
  backend_->copy_to_host_later(host.data(), device.data(), sent.size());
  EXPECT_TRUE(backend_->reached(0));
  Mark last = 0;
  for (int i = 0; i < 40; ++i) {  // more than there are events
    const Mark mark = backend_->mark();
    EXPECT_GE(mark, last);
    last = mark;
  }
  while (!backend_->reached(last)) {
  }
  EXPECT_EQ(std::memcmp(host.data(), sent.data(), sent.size()), 0);
  if (on_gpu()) {
    EXPECT_THROW(static_cast<void>(backend_->reached(last + 1)), Error);
  }
}

TEST(MakeBackend, RefusesUnknownSetsAndListsTheRest) {
  BackendOptions options;
  options.kernels = "avx1024";
  try {
    make_backend(options);
    FAIL() << "avx1024 was accepted";
  } catch (const Error& e) {
    EXPECT_NE(e.remedy().find("portable"), std::string::npos) << e.what();
  }
}

TEST(MakeBackend, TheEnvironmentOverridesAuto) {
  ::setenv("NIGHTSHIFT_KERNELS", "portable", 1);
  EXPECT_EQ(make_backend()->kernel_set(), "portable");
  ::unsetenv("NIGHTSHIFT_KERNELS");
  std::vector<std::string> sets = available_kernel_sets();
  std::erase_if(sets, [](const std::string& set) { return set.starts_with("cuda"); });
  EXPECT_EQ(make_backend()->kernel_set(), sets.back());  // GPUs are asked for by device
}

}  // namespace
}  // namespace nightshift::kernels::test
