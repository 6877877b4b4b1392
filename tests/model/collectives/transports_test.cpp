// SPDX-License-Identifier: Apache-2.0
// Every collective on every way between GPUs leaves the bytes that plain MPI on host memory leaves, and
// counts what it sends alike.
#include "model/collectives.h"

#include <numeric>
#include <random>

#include "core/check.h"
#include "model/collectives/support.h"

namespace nightshift::test {
namespace {

using model::Collectives;
using model::Transport;
using parallel::Traffic;
using Bytes = std::vector<std::int64_t>;

constexpr int kRounds = 24;
constexpr auto kFloat = static_cast<std::int64_t>(sizeof(float));

std::size_t total(const Bytes& bytes) {
  return static_cast<std::size_t>(std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}));
}
std::vector<char> random_bytes(std::size_t count, unsigned seed) {
  std::minstd_rand random(seed + 1);
  std::vector<char> content(count);
  for (char& c : content) c = static_cast<char>(random());
  return content;
}
std::vector<float> random_floats(std::size_t count, unsigned seed) {
  std::minstd_rand random(seed + 1);
  std::uniform_real_distribution<float> value(-1.0F, 1.0F);
  std::vector<float> content(count);
  for (float& f : content) f = value(random);
  return content;
}

// Sizes that all ranks draw alike: uneven and a third of them empty, or, every fourth round, all the same.
std::int64_t random_size(std::mt19937& random, int round, std::int64_t unit) {
  const std::int64_t drawn = random() % 3 == 0 ? 0 : static_cast<std::int64_t>(random() % 3000 + 1);
  return unit * (round % 4 == 3 ? 100 * round : drawn);
}

class Transports : public testing::TestWithParam<const char*> {
 protected:
  int me() const { return test_world->rank(); }
  int ranks() const { return test_world->size(); }
  unsigned seed(int round) const { return static_cast<unsigned>(100 * round + me()); }

  // Ranks share a GPU where that is allowed.
  std::unique_ptr<kernels::Backend> gpu_ = gpu_of(std::string(GetParam()) == "mpi" ? 0 : test_world->rank());
  std::unique_ptr<Collectives> device_ =
      model::make_collectives(*test_world, *gpu_, model::transport_named(GetParam()), "the test's group");
  std::unique_ptr<kernels::Backend> cpu_ = kernels::make_backend({.kernels = "portable"});
  std::unique_ptr<Collectives> host_ =
      model::make_collectives(*test_world, *cpu_, Transport::automatic, "the test's group");

  template <class F>
  std::uint64_t bytes_of(Traffic kind, const F& work) {
    const auto i = static_cast<std::size_t>(kind);
    const std::uint64_t before = test_world->traffic()[i].bytes;
    work();
    return test_world->traffic()[i].bytes - before;
  }
};

TEST_P(Transports, AreWhatWasAskedFor) {
  EXPECT_EQ(device_->way(), GetParam());
  EXPECT_EQ(host_->way(), "host");
  EXPECT_EQ(device_->capturable(), device_->way() == "nccl");
  EXPECT_FALSE(host_->capturable());
  EXPECT_EQ(device_->rank(), me());
  EXPECT_EQ(device_->size(), ranks());
}

TEST_P(Transports, ExchangeAllToAll) {
  std::mt19937 random(3);
  for (int round = 0; round < kRounds; ++round) {
    Bytes table(static_cast<std::size_t>(ranks() * ranks()));  // [from][to]
    for (std::int64_t& size : table) size = random_size(random, round, 1);
    Bytes sizes, arriving;
    for (int r = 0; r < ranks(); ++r) {
      sizes.push_back(table[static_cast<std::size_t>(me() * ranks() + r)]);
      arriving.push_back(table[static_cast<std::size_t>(r * ranks() + me())]);
    }
    const std::vector<char> send = random_bytes(total(sizes), seed(round));
    std::vector<char> want(total(arriving), '?');
    const std::uint64_t sent = bytes_of(Traffic::qkv_exchange, [&] {
      host_->all_to_all(Traffic::qkv_exchange, send.data(), sizes, want.data(), arriving);
    });
    const kernels::Buffer out = on_device(*gpu_, send);
    const kernels::Buffer in = on_device(*gpu_, std::vector<char>(want.size(), '!'));
    EXPECT_EQ(
        bytes_of(Traffic::qkv_exchange,
                 [&] { device_->all_to_all(Traffic::qkv_exchange, out.data(), sizes, in.data(), arriving); }),
        sent);
    ASSERT_EQ(on_host<char>(*gpu_, in, want.size()), want) << "round " << round;
    ASSERT_EQ(on_host<char>(*gpu_, out, send.size()), send) << "round " << round;
  }
}

TEST_P(Transports, GatherAll) {
  std::mt19937 random(4);
  for (int round = 0; round < kRounds; ++round) {
    Bytes sizes;
    for (int r = 0; r < ranks(); ++r) sizes.push_back(random_size(random, round, 1));
    std::vector<char> want = random_bytes(total(sizes), seed(round));
    const kernels::Buffer blocks = on_device(*gpu_, want);
    const std::uint64_t sent = bytes_of(
        Traffic::sampled_rows, [&] { host_->all_gather(Traffic::sampled_rows, want.data(), sizes); });
    EXPECT_EQ(bytes_of(Traffic::sampled_rows,
                       [&] { device_->all_gather(Traffic::sampled_rows, blocks.data(), sizes); }),
              sent);
    ASSERT_EQ(on_host<char>(*gpu_, blocks, want.size()), want) << "round " << round;
  }
}

// In rank order on all three ways here; NCCL itself adds in an order of its own.
TEST_P(Transports, ReduceAll) {
  for (const std::size_t count :
       {std::size_t{0}, std::size_t{1}, std::size_t{3}, std::size_t{1024}, std::size_t{5003}}) {
    const std::vector<float> mine = random_floats(count, seed(static_cast<int>(count)));
    std::vector<float> want = mine;
    const auto n = static_cast<std::int64_t>(count);
    const std::uint64_t sent =
        bytes_of(Traffic::reduction, [&] { host_->all_reduce(Traffic::reduction, want.data(), n); });
    const kernels::Buffer values = on_device(*gpu_, mine);
    EXPECT_EQ(
        bytes_of(Traffic::reduction, [&] { device_->all_reduce(Traffic::reduction, values.as<float>(), n); }),
        sent);
    ASSERT_EQ(on_host<float>(*gpu_, values, count), want) << count;
    std::vector<float> plain(count, 0.0F);  // every rank's numbers are known here
    for (int r = 0; r < ranks(); ++r) {
      const auto part = random_floats(count, static_cast<unsigned>(100 * count + static_cast<unsigned>(r)));
      for (std::size_t i = 0; i < count; ++i) plain[i] += part[i];
    }
    EXPECT_EQ(want, plain) << count;
  }
}

TEST_P(Transports, ReduceAndScatter) {
  std::mt19937 random(6);
  for (int round = 0; round < kRounds; ++round) {
    Bytes sizes;
    for (int r = 0; r < ranks(); ++r) sizes.push_back(random_size(random, round, kFloat));
    const std::vector<float> send = random_floats(total(sizes) / sizeof(float), seed(round));
    const auto own = static_cast<std::size_t>(sizes[static_cast<std::size_t>(me())] / kFloat);
    std::vector<float> want(own, 7.0F);
    const std::uint64_t sent = bytes_of(Traffic::reduction, [&] {
      host_->reduce_scatter(Traffic::reduction, send.data(), want.data(), sizes);
    });
    const kernels::Buffer out = on_device(*gpu_, send);
    const kernels::Buffer in = on_device(*gpu_, std::vector<float>(own, -7.0F));
    EXPECT_EQ(bytes_of(Traffic::reduction,
                       [&] {
                         device_->reduce_scatter(Traffic::reduction, out.as<float>(), in.as<float>(), sizes);
                       }),
              sent);
    ASSERT_EQ(on_host<float>(*gpu_, in, own), want) << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, Transports, testing::Values("mpi", "nccl"),
                         [](const auto& name) { return std::string(name.param); });

// What NCCL is asked for, call by call.
class Calls : public testing::Test {
 protected:
  void SetUp() override { take_record(); }
  int ranks() const { return test_world->size(); }

  std::unique_ptr<kernels::Backend> gpu_ = gpu_of(test_world->rank());
  std::unique_ptr<Collectives> group_ =
      model::make_collectives(*test_world, *gpu_, Transport::nccl, "the test's group");
  kernels::Buffer a_ = gpu_->allocate(4096, "test::a"), b_ = gpu_->allocate(4096, "test::b");
};

TEST_F(Calls, OfEqualBlocks) {
  const Bytes sizes(static_cast<std::size_t>(ranks()), 16);
  group_->all_to_all(Traffic::qkv_exchange, a_.data(), sizes, b_.data(), sizes);
  std::vector<std::string> want{"ncclAlltoAll 16 int8"};
  if (!nccl_has_all_to_all()) {
    want = {"ncclGroupStart"};
    for (int r = 0; r < ranks(); ++r) {
      want.push_back(fmt::format("ncclSend 16 int8 to {}", r));
      want.push_back(fmt::format("ncclRecv 16 int8 from {}", r));
    }
    want.emplace_back("ncclGroupEnd");
  }
  EXPECT_EQ(take_record(), want);
  gpu_->fill({a_.as<float>(), 1, 256}, 1.0F);
  group_->all_gather(Traffic::sampled_rows, a_.data(), sizes);
  group_->all_reduce(Traffic::reduction, a_.as<float>(), 20);
  group_->reduce_scatter(Traffic::reduction, a_.as<float>(), b_.as<float>(), sizes);
  EXPECT_EQ(take_record(), (std::vector<std::string>{"ncclAllGather 16 int8", "ncclAllReduce 20 float32",
                                                     "ncclReduceScatter 4 float32"}));
}

// Rank r's blocks are of 4 r bytes: rank 0 has none.
TEST_F(Calls, OfUnevenBlocks) {
  const int me = test_world->rank();
  Bytes growing, own(static_cast<std::size_t>(ranks()), 4 * me);
  for (int r = 0; r < ranks(); ++r) growing.push_back(4 * r);
  const auto messages = [&](bool gathers) {
    std::vector<std::string> lines{"ncclGroupStart"};
    for (int r = 0; r < ranks(); ++r) {
      if (gathers && r == me) continue;
      if (me > 0) lines.push_back(fmt::format("ncclSend {} int8 to {}", 4 * me, r));
      if (r > 0) lines.push_back(fmt::format("ncclRecv {} int8 from {}", 4 * r, r));
    }
    lines.emplace_back("ncclGroupEnd");
    return lines;
  };
  group_->all_to_all(Traffic::qkv_exchange, a_.data(), own, b_.data(), growing);
  EXPECT_EQ(take_record(), messages(false));
  group_->all_gather(Traffic::sampled_rows, a_.data(), growing);
  EXPECT_EQ(take_record(), messages(true));
  gpu_->fill({a_.as<float>(), 1, 256}, 1.0F);
  group_->reduce_scatter(Traffic::reduction, a_.as<float>(), b_.as<float>(), growing);
  std::vector<std::string> reductions{"ncclGroupStart"};
  for (int r = 1; r < ranks(); ++r) reductions.push_back(fmt::format("ncclReduce {} float32 root {}", r, r));
  reductions.emplace_back("ncclGroupEnd");
  EXPECT_EQ(take_record(), reductions);
}

TEST_F(Calls, OfNothing) {
  const Bytes none(static_cast<std::size_t>(ranks()), 0);
  group_->all_to_all(Traffic::qkv_exchange, a_.data(), none, b_.data(), none);
  group_->all_gather(Traffic::sampled_rows, a_.data(), none);
  group_->reduce_scatter(Traffic::reduction, a_.as<float>(), b_.as<float>(), none);
  group_->all_reduce(Traffic::reduction, a_.as<float>(), 0);
  for (const std::string& line : take_record())
    EXPECT_TRUE(line == "ncclGroupStart" || line == "ncclGroupEnd") << line;
}

TEST_F(Calls, OfAGroupsLife) {
  group_ = model::make_collectives(*test_world, *gpu_, Transport::nccl, "another group");
  group_.reset();
  const auto record = take_record();
  const std::string init = fmt::format("ncclCommInitRank {} of {}", test_world->rank(), ranks());
  EXPECT_EQ(record, (std::vector<std::string>{init, "ncclCommDestroy", "ncclCommDestroy"}));
}

}  // namespace
}  // namespace nightshift::test
