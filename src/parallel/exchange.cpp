// SPDX-License-Identifier: Apache-2.0
// Collectives of a step's tensors. Plain messages between every two ranks: inside a host each block is copied
// once, from the sender's memory to the receiver's, as fast as MPI_Alltoallv and MPI_Allgatherv do it for
// the group sizes of one replica, and no int limits what they carry.
#include <algorithm>
#include <array>
#include <cstring>

#include "core/check.h"
#include "parallel/communicator.h"
#include "parallel/mpi_check.h"

namespace nightshift::parallel {
namespace {

using Clock = TraceLog::Clock;

const char* event_name(std::size_t kind) {  // alive until the process ends, as a TraceLog wants them
  static const auto names = [] {
    std::array<std::string, kTrafficNames.size()> all;
    std::transform(kTrafficNames.begin(), kTrafficNames.end(), all.begin(),
                   [](const char* name) { return std::string("exchange: ") + name; });
    return all;
  }();
  return names[kind].c_str();
}

// Counts a collective from its construction to its end; with a trace, waits for the others first.
class Counted {
 public:
  Counted(Family& family, MPI_Comm comm, Traffic kind)
      : family_(family), kind_(static_cast<std::size_t>(kind)) {
    if (family_.log == nullptr) return;
    NS_MPI(MPI_Barrier(comm));
    exchange_begin_ = Clock::now();
    family_.log->add("wait", begin_, exchange_begin_);
  }
  ~Counted() {
    const Clock::time_point end = Clock::now();
    TrafficSum& sum = family_.traffic[kind_];
    ++sum.calls;
    sum.seconds += std::chrono::duration<double>(end - begin_).count();
    if (family_.log != nullptr) family_.log->add(event_name(kind_), exchange_begin_, end);
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

  void sent(std::int64_t bytes) { family_.traffic[kind_].bytes += static_cast<std::uint64_t>(bytes); }

 private:
  Family& family_;
  std::size_t kind_;
  Clock::time_point begin_ = Clock::now();
  Clock::time_point exchange_begin_ = begin_;
};

void check_blocks(std::span<const std::int64_t> bytes, int ranks) {
  NS_CHECK(bytes.size() == static_cast<std::size_t>(ranks), "{} blocks for {} ranks", bytes.size(), ranks);
  for (const std::int64_t size : bytes) NS_CHECK(size >= 0, "a block of {} bytes", size);
}

struct Block {
  std::int64_t offset, bytes;
};
Block block_of(std::span<const std::int64_t> bytes, int rank) {
  Block block{0, bytes[static_cast<std::size_t>(rank)]};
  for (int r = 0; r < rank; ++r) block.offset += bytes[static_cast<std::size_t>(r)];
  return block;
}

}  // namespace

void Communicator::all_to_all(Traffic kind, const void* send, std::span<const std::int64_t> send_bytes,
                              void* receive, std::span<const std::int64_t> receive_bytes) const {
  const int ranks = impl_->size, me = impl_->rank;
  check_blocks(send_bytes, ranks);
  check_blocks(receive_bytes, ranks);
  const auto from = [&](int rank) {
    return static_cast<const char*>(send) + block_of(send_bytes, rank).offset;
  };
  const auto to = [&](int rank) {
    return static_cast<char*>(receive) + block_of(receive_bytes, rank).offset;
  };
  const Block own = block_of(send_bytes, me);
  NS_CHECK(own.bytes == receive_bytes[static_cast<std::size_t>(me)],
           "rank {} sends itself {} bytes, receives {}", me, own.bytes,
           receive_bytes[static_cast<std::size_t>(me)]);
  if (ranks == 1) {
    if (own.bytes > 0) std::memcpy(receive, send, static_cast<std::size_t>(own.bytes));
    return;
  }
  Counted counted(*impl_->family, impl_->comm, kind);
  // Every rank begins with its next neighbour, so that they do not all ask the same one at once.
  for (int step = 1; step < ranks; ++step) {
    const int source = (me + ranks - step) % ranks;
    impl_->transfers.receive(to(source), block_of(receive_bytes, source).bytes, source);
  }
  for (int step = 1; step < ranks; ++step) {
    const int target = (me + step) % ranks;
    const std::int64_t bytes = block_of(send_bytes, target).bytes;
    impl_->transfers.send(from(target), bytes, target);
    counted.sent(bytes);
  }
  if (own.bytes > 0) std::memcpy(to(me), from(me), static_cast<std::size_t>(own.bytes));
  impl_->transfers.wait();
}

void Communicator::all_gather(Traffic kind, void* blocks, std::span<const std::int64_t> bytes) const {
  const int ranks = impl_->size, me = impl_->rank;
  check_blocks(bytes, ranks);
  if (ranks == 1) return;
  Counted counted(*impl_->family, impl_->comm, kind);
  for (int step = 1; step < ranks; ++step) {
    const int source = (me + ranks - step) % ranks;
    const Block block = block_of(bytes, source);
    impl_->transfers.receive(static_cast<char*>(blocks) + block.offset, block.bytes, source);
  }
  const Block own = block_of(bytes, me);
  for (int step = 1; step < ranks; ++step)
    impl_->transfers.send(static_cast<char*>(blocks) + own.offset, own.bytes, (me + step) % ranks);
  counted.sent(own.bytes * (ranks - 1));
  impl_->transfers.wait();
}

void Communicator::broadcast(Traffic kind, std::string& text) const {
  if (impl_->size == 1) return;
  Counted counted(*impl_->family, impl_->comm, kind);
  // Length and first bytes in one message of fixed size: nearly all orders fit, and cost one latency.
  struct {
    std::uint64_t length;
    std::array<char, 1016> text;
  } first{};
  if (impl_->rank == 0) {
    first.length = text.size();
    std::copy_n(text.data(), std::min(text.size(), first.text.size()), first.text.data());
    counted.sent(static_cast<std::int64_t>(text.size()) * (impl_->size - 1));
  }
  NS_MPI(MPI_Bcast(&first, sizeof first, MPI_BYTE, 0, impl_->comm));
  text.resize(first.length);
  const std::uint64_t head = std::min<std::uint64_t>(first.length, first.text.size());
  if (impl_->rank != 0) std::copy_n(first.text.data(), head, text.data());
  for (std::uint64_t at = head; at < first.length; at += Transfers::kPiece)
    NS_MPI(MPI_Bcast(text.data() + at,
                     static_cast<int>(std::min<std::uint64_t>(Transfers::kPiece, first.length - at)),
                     MPI_BYTE, 0, impl_->comm));
}

TrafficSums Communicator::traffic() const {
  return impl_->family->traffic;
}

void Communicator::count(Traffic kind, std::uint64_t bytes, std::uint64_t calls) const {
  TrafficSum& sum = impl_->family->traffic[static_cast<std::size_t>(kind)];
  sum.calls += calls;
  sum.bytes += bytes;
}

void Communicator::trace_to(TraceLog* log) const {
  impl_->family->log = log;
}

TraceLog* Communicator::trace() const {
  return impl_->family->log;
}

}  // namespace nightshift::parallel
