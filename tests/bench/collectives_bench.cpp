// SPDX-License-Identifier: Apache-2.0
// Latency and rate of a step's collectives: mpirun -np 2 collectives_bench. Median over calls of the slowest
// rank's time; the rate counts what one rank sends to others. memcpy of the same bytes is the yardstick: what
// a host can do at best.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>

#include "parallel/parallel.h"

namespace nightshift::parallel {
namespace {

using Clock = std::chrono::steady_clock;

double median_microseconds(const Communicator& world, int calls, const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = -calls / 10; i < calls; ++i) {  // the first ones warm up
    world.barrier();
    const Clock::time_point begin = Clock::now();
    call();
    const auto own = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count();
    const std::int64_t slowest = world.max(own);
    if (i >= 0) times.push_back(static_cast<double>(slowest) / 1000);
  }
  std::nth_element(times.begin(), times.begin() + calls / 2, times.end());
  return times[static_cast<std::size_t>(calls) / 2];
}

void measure(const Communicator& world, std::int64_t block) {
  const auto ranks = static_cast<std::size_t>(world.size());
  const std::vector<std::int64_t> blocks(ranks, block);
  std::vector<char> send(static_cast<std::size_t>(block) * ranks, 'x'), receive(send.size());
  const int calls = block >= 1 << 20 ? 100 : 1000;
  const double exchange = median_microseconds(world, calls, [&] {
    world.all_to_all(Traffic::qkv_exchange, send.data(), blocks, receive.data(), blocks);
  });
  const double gather = median_microseconds(
      world, calls, [&] { world.all_gather(Traffic::reduction, receive.data(), blocks); });
  std::string text(static_cast<std::size_t>(block), 'x');
  const double order = median_microseconds(world, calls, [&] { world.broadcast(Traffic::orders, text); });
  const double copy = median_microseconds(world, calls, [&] {
    std::memcpy(receive.data(), send.data(), static_cast<std::size_t>(block) * (ranks - 1));
  });
  if (world.rank() != 0) return;
  const auto rate = [&](double us) {
    return static_cast<double>(block) * static_cast<double>(ranks - 1) / us / 1000;
  };
  fmt::print("{:>9}{:>12.1f}{:>8.2f}{:>12.1f}{:>8.2f}{:>12.1f}{:>12.1f}{:>8.2f}\n", block, exchange,
             rate(exchange), gather, rate(gather), order, copy, rate(copy));
}

}  // namespace
}  // namespace nightshift::parallel

int main(int argc, char** argv) {
  using namespace nightshift::parallel;
  Environment mpi(&argc, &argv);
  const Communicator world = Communicator::world();
  if (world.rank() == 0)
    fmt::print("{} ranks\n{:>9}{:>12}{:>8}{:>12}{:>8}{:>12}{:>12}{:>8}\n", world.size(), "block B",
               "all_to_all us", "GB/s", "all_gather", "GB/s", "broadcast", "memcpy", "GB/s");
  for (std::int64_t block = 64; block <= std::int64_t{4} << 20; block *= 4) measure(world, block);
}
