// SPDX-License-Identifier: Apache-2.0
// Collectives of a step's tensors against a plain point-to-point reference, and the sums that they leave.
#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "core/check.h"
#include "parallel/parallel.h"
#include "parallel/transfers.h"

namespace nightshift::parallel {
namespace {

using Bytes = std::vector<std::int64_t>;

std::int64_t total(const Bytes& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}
std::size_t kind_index(Traffic kind) {
  return static_cast<std::size_t>(kind);
}

// Uneven, a third of them empty, up to `most`. table[s * ranks + r]: bytes from s to r; the same on all
// ranks.
Bytes random_table(std::mt19937& random, int ranks, std::int64_t most) {
  Bytes table(static_cast<std::size_t>(ranks * ranks));
  for (std::int64_t& bytes : table)
    bytes = random() % 3 == 0 ? 0 : std::uniform_int_distribution<std::int64_t>(1, most)(random);
  return table;
}
Bytes row_of(const Bytes& table, int ranks, int row) {
  return {table.begin() + row * ranks, table.begin() + (row + 1) * ranks};
}
Bytes column_of(const Bytes& table, int ranks, int column) {
  Bytes bytes;
  for (int r = 0; r < ranks; ++r) bytes.push_back(table[static_cast<std::size_t>(r * ranks + column)]);
  return bytes;
}
std::vector<char> random_content(std::int64_t bytes, unsigned seed) {
  std::minstd_rand random(seed + 1);
  std::vector<char> content(static_cast<std::size_t>(bytes));
  for (char& c : content) c = static_cast<char>(random());
  return content;
}

// One blocking message after the other, in an order that cannot lock up.
std::vector<char> reference_all_to_all(int ranks, int me, const std::vector<char>& send, const Bytes& table) {
  const Bytes mine = row_of(table, ranks, me), theirs = column_of(table, ranks, me);
  std::vector<char> received(static_cast<std::size_t>(total(theirs)));
  for (int s = 0; s < ranks; ++s)
    for (int r = 0; r < ranks; ++r) {
      const char* from = send.data() + std::accumulate(mine.begin(), mine.begin() + r, std::int64_t{0});
      char* to = received.data() + std::accumulate(theirs.begin(), theirs.begin() + s, std::int64_t{0});
      const auto bytes = static_cast<int>(table[static_cast<std::size_t>(s * ranks + r)]);
      if (s == me && r == me) std::copy_n(from, bytes, to);
      if (s == r) continue;
      if (s == me) MPI_Ssend(from, bytes, MPI_CHAR, r, 9, MPI_COMM_WORLD);
      if (r == me) MPI_Recv(to, bytes, MPI_CHAR, s, 9, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
  return received;
}

TEST(Exchange, AllToAllEqualsPlainMessages) {
  const Communicator world = Communicator::world();
  const int ranks = world.size(), me = world.rank();
  std::mt19937 random(7);
  std::uint64_t sent = 0;
  const int rounds = 40;
  for (int round = 0; round < rounds; ++round) {
    const Bytes table = random_table(random, ranks, round % 4 == 3 ? 200'000 : 3'000);
    const Bytes mine = row_of(table, ranks, me), theirs = column_of(table, ranks, me);
    const std::vector<char> send = random_content(total(mine), static_cast<unsigned>(round * 100 + me));
    std::vector<char> receive(static_cast<std::size_t>(total(theirs)), '?');
    world.all_to_all(Traffic::qkv_exchange, send.data(), mine, receive.data(), theirs);
    ASSERT_EQ(receive, reference_all_to_all(ranks, me, send, table)) << "round " << round;
    sent += static_cast<std::uint64_t>(total(mine) - mine[static_cast<std::size_t>(me)]);
  }
  const TrafficSum sum = world.traffic()[kind_index(Traffic::qkv_exchange)];
  EXPECT_EQ(sum.bytes, sent);
  EXPECT_EQ(sum.calls, ranks == 1 ? 0u : static_cast<unsigned>(rounds));
  EXPECT_EQ(sum.seconds > 0.0, ranks > 1);
  EXPECT_EQ(world.traffic()[kind_index(Traffic::attention_exchange)].calls, 0u);
}

TEST(Exchange, AllGatherGivesAllBlocksToAll) {
  const Communicator world = Communicator::world();
  const int ranks = world.size(), me = world.rank();
  std::mt19937 random(8);
  std::uint64_t sent = 0;
  for (int round = 0; round < 40; ++round) {
    const Bytes blocks = row_of(random_table(random, ranks, round % 4 == 3 ? 200'000 : 3'000), ranks, 0);
    std::vector<char> expected, gathered(static_cast<std::size_t>(total(blocks)), '?');
    for (int r = 0; r < ranks; ++r) {
      const auto at = static_cast<std::ptrdiff_t>(expected.size());
      const std::vector<char> block =
          random_content(blocks[static_cast<std::size_t>(r)], static_cast<unsigned>(round * 100 + r));
      expected.insert(expected.end(), block.begin(), block.end());
      if (r == me) std::copy(block.begin(), block.end(), gathered.begin() + at);
    }
    world.all_gather(Traffic::reduction, gathered.data(), blocks);
    ASSERT_EQ(gathered, expected) << "round " << round;
    sent += static_cast<std::uint64_t>(blocks[static_cast<std::size_t>(me)] * (ranks - 1));
  }
  EXPECT_EQ(world.traffic()[kind_index(Traffic::reduction)].bytes, sent);
}

TEST(Exchange, BroadcastOfAnyLength) {
  const Communicator world = Communicator::world();
  std::uint64_t sent = 0;
  for (const std::size_t length : {0, 1, 1015, 1016, 1017, 5000, 3'000'000, 2}) {
    const std::vector<char> content = random_content(static_cast<std::int64_t>(length), 5);
    const std::string expected(content.begin(), content.end());
    std::string text = world.rank() == 0 ? expected : "what was there before";
    if (world.size() == 1) text = expected;
    world.broadcast(Traffic::orders, text);
    ASSERT_EQ(text, expected);
    sent += length * static_cast<std::size_t>(world.size() - 1);
  }
  EXPECT_EQ(world.traffic()[kind_index(Traffic::orders)].bytes, world.rank() == 0 ? sent : 0u);
}

TEST(Exchange, FamiliesCountTogether) {
  const Communicator world = Communicator::world();
  const Communicator other = Communicator::world();
  const Communicator part = world.split(0, -world.rank());
  const Bytes blocks(static_cast<std::size_t>(world.size()), 8);
  std::vector<char> memory(blocks.size() * 8);
  part.all_gather(Traffic::sampling, memory.data(), blocks);
  part.split(0, 0).all_gather(Traffic::sampling, memory.data(), blocks);
  const auto expected = static_cast<std::uint64_t>(2 * 8 * (world.size() - 1));
  EXPECT_EQ(world.traffic()[kind_index(Traffic::sampling)].bytes, expected);
  EXPECT_EQ(part.traffic()[kind_index(Traffic::sampling)].bytes, expected);
  EXPECT_EQ(other.traffic()[kind_index(Traffic::sampling)].bytes, 0u);
}

TEST(Exchange, WrongBlocksAreRefusedBeforeAnythingIsSent) {
  const Communicator world = Communicator::world();
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<char> memory(64 * ranks), more(64 * ranks);
  EXPECT_THROW(world.all_gather(Traffic::reduction, memory.data(), Bytes(ranks + 1, 8)), Error);
  EXPECT_THROW(world.all_gather(Traffic::reduction, memory.data(), Bytes(ranks, -8)), Error);
  EXPECT_THROW(
      world.all_to_all(Traffic::reduction, memory.data(), Bytes(ranks, 8), more.data(), Bytes(ranks, 9)),
      Error);
  EXPECT_EQ(world.traffic()[kind_index(Traffic::reduction)].calls, 0u);
}

// What MPI's int counts would refuse travels in pieces; here they are small.
TEST(Transfers, BlocksLongerThanAPiece) {
  int me = 0, ranks = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &me);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const int next = (me + 1) % ranks, last = (me + ranks - 1) % ranks;
  for (const std::int64_t bytes : {0, 1, 999, 1000, 1001, 12345}) {
    Transfers transfers(MPI_COMM_WORLD, 1000);
    const std::vector<char> first = random_content(bytes, static_cast<unsigned>(me)),
                            second = random_content(bytes + 1, static_cast<unsigned>(me + 50));
    std::vector<char> a(first.size()), b(second.size());
    transfers.receive(a.data(), bytes, last);
    transfers.receive(b.data(), bytes + 1, last);
    transfers.send(first.data(), bytes, next);
    transfers.send(second.data(), bytes + 1, next);
    transfers.wait();
    EXPECT_EQ(a, random_content(bytes, static_cast<unsigned>(last)));
    EXPECT_EQ(b, random_content(bytes + 1, static_cast<unsigned>(last + 50)));
  }
}

TEST(Exchange, TraceSeparatesWaitFromExchange) {
  const Communicator world = Communicator::world();
  const Communicator part = world.split(0, world.rank());
  TraceLog log(TraceLog::Clock::now());
  world.trace_to(&log);
  std::string text = "stop";
  part.broadcast(Traffic::orders, text);
  world.trace_to(nullptr);
  part.broadcast(Traffic::orders, text);
  const std::string events = log.events_json(0, world.rank());
  const auto times = [&](const char* name) {
    int found = 0;
    const std::string quoted = fmt::format("\"{}\"", name);
    for (std::size_t at = 0; (at = events.find(quoted, at)) != events.npos; ++at) ++found;
    return found;
  };
  EXPECT_EQ(times("wait"), world.size() > 1 ? 1 : 0) << events;
  EXPECT_EQ(times("exchange: orders"), world.size() > 1 ? 1 : 0) << events;
}

// One rank fails between two collectives while the others are in the next: its error must reach main, which
// ends the job, so nothing on its way up may wait for them.
TEST(Exchange, AnErrorOfOneRankDoesNotWaitForTheOthers) {
  const Communicator world = Communicator::world();
  if (world.size() % 2 != 0) GTEST_SKIP() << "needs two ranks";
  const auto failing = [&](bool late) {
    const DeviceMesh mesh(world, {2, 1});
    const SharedMemory memory(world, 1 << 16, "test");
    if (late) world.barrier();
    throw Error("the disk is full");
  };
  EXPECT_THROW(failing(world.rank() != 0), Error);
  if (world.rank() == 0) world.barrier();
}

}  // namespace
}  // namespace nightshift::parallel
