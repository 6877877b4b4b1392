// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "core/check.h"
#include "parallel/parallel.h"

namespace nightshift::parallel {
namespace {

// Bytes of this process's mapping around `address`, each divided by the number of processes that map it.
double proportional_bytes(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0, end = 0;
    char dash = 0;
    std::istringstream words(line);
    if (words >> std::hex >> begin >> dash >> end && dash == '-') {
      const auto at = reinterpret_cast<std::uintptr_t>(address);
      inside = begin <= at && at < end;
    } else if (inside && line.starts_with("Pss:")) {
      return std::stod(line.substr(4)) * 1024;
    }
  }
  ADD_FAILURE() << "no mapping holds the address";
  return 0;
}

TEST(SharedMemory, WhatOneRankWritesAllRanksRead) {
  const Communicator world = Communicator::world();
  const std::size_t size = 1'000'003;
  const SharedMemory memory(world, size, "test");
  EXPECT_EQ(memory.host().size(), world.size());
  ASSERT_EQ(memory.bytes().size(), size);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.bytes().data()) % 4096, 0u);
  EXPECT_EQ(std::count(memory.bytes().begin(), memory.bytes().end(), std::byte{0}), static_cast<long>(size));
  memory.publish();  // all have seen the zeros
  for (int writer = 0; writer < world.size(); ++writer) {
    if (world.rank() == writer) std::memset(memory.bytes().data(), writer + 1, size);
    memory.publish();
    EXPECT_EQ(std::count(memory.bytes().begin(), memory.bytes().end(), static_cast<std::byte>(writer + 1)),
              static_cast<long>(size));
    memory.publish();
  }
}

TEST(SharedMemory, EveryRankFillsItsPart) {
  const Communicator world = Communicator::world();
  const std::int64_t n = 100'000;
  const SharedMemory memory(world, n * sizeof(std::int64_t), "test");
  auto* numbers = reinterpret_cast<std::int64_t*>(memory.bytes().data());
  const Range mine = slice_of(n, world.size(), world.rank());
  for (std::int64_t i = mine.begin; i < mine.end; ++i) numbers[i] = i;
  memory.publish();
  for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(numbers[i], i);
}

TEST(SharedMemory, AHostHoldsItOnceWhateverTheNumberOfRanks) {
  const Communicator world = Communicator::world();
  const std::size_t size = std::size_t{64} << 20;
  const SharedMemory memory(world, size, "test");
  world.barrier();
  EXPECT_LT(world.sum(proportional_bytes(memory.bytes().data())), 0.1 * static_cast<double>(size))
      << "nobody has touched it yet";
  world.barrier();
  if (world.rank() == world.size() - 1) std::memset(memory.bytes().data(), 1, size);
  memory.publish();
  std::int64_t sum = 0;
  for (std::size_t at = 0; at < size; at += 64) sum += std::to_integer<int>(memory.bytes()[at]);
  EXPECT_EQ(sum, static_cast<std::int64_t>(size / 64));
  world.barrier();
  const double held = world.sum(proportional_bytes(memory.bytes().data()));
  EXPECT_GT(held, 0.99 * static_cast<double>(size));
  EXPECT_LT(held, 1.05 * static_cast<double>(size));
  world.barrier();
}

TEST(SharedMemory, MoreThanTheHostHasIsRefusedInWords) {
  const Communicator world = Communicator::world();
  try {
    const SharedMemory memory(world, std::size_t{1} << 50, "model::weights");
    FAIL() << "a pebibyte was granted";
  } catch (const Error& error) {
    const std::string words = error.what();
    EXPECT_NE(words.find("model::weights"), std::string::npos) << words;
    EXPECT_NE(words.find("1.0 PiB"), std::string::npos) << words;
    if (world.size() > 1) {
      EXPECT_NE(words.find(" free\n  -> enlarge it (mount -o remount,size="), std::string::npos) << words;
    }
  }
}

}  // namespace
}  // namespace nightshift::parallel
