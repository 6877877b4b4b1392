// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <exception>
#include <numeric>

#include "core/check.h"
#include "parallel/communicator.h"
#include "parallel/mpi_check.h"

namespace nightshift::parallel {
namespace {

// Memory at rank 0 that every rank may read and change one-sidedly, for as long as this object lives.
class SharedCounters {
 public:
  SharedCounters(MPI_Comm ranks, int rank, std::size_t counters) {
    const std::size_t here = rank == 0 ? counters : 0;
    NS_MPI(MPI_Win_allocate(static_cast<MPI_Aint>(here * sizeof(std::int64_t)), sizeof(std::int64_t),
                            MPI_INFO_NULL, ranks, &memory_, &window_));
    std::fill_n(memory_, here, 0);
    NS_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_));
    NS_MPI(MPI_Win_sync(window_));
    NS_MPI(MPI_Barrier(ranks));  // nobody counts before the zeros are there
  }
  // Freeing is collective. A rank that is on its way out with an error must not wait here for ranks that wait
  // for it elsewhere: Environment::abort ends them all.
  ~SharedCounters() {
    if (std::uncaught_exceptions() > exceptions_) return;
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
  }
  SharedCounters(const SharedCounters&) = delete;
  SharedCounters& operator=(const SharedCounters&) = delete;

  std::int64_t fetch_and_add(std::int64_t add) {
    std::int64_t before = 0;
    NS_MPI(MPI_Fetch_and_op(&add, &before, MPI_INT64_T, 0, 0, MPI_SUM, window_));
    NS_MPI(MPI_Win_flush(0, window_));
    return before;
  }

  void put(std::span<const std::int64_t> values, std::size_t at) {
    const int count = static_cast<int>(values.size());
    NS_MPI(MPI_Accumulate(values.data(), count, MPI_INT64_T, 0, static_cast<MPI_Aint>(at), count, MPI_INT64_T,
                          MPI_REPLACE, window_));
    NS_MPI(MPI_Win_flush_local(0, window_));
  }

  std::vector<std::int64_t> read(std::size_t count) {
    std::vector<std::int64_t> values(count);
    std::vector<std::int64_t> ignored(count);
    const int n = static_cast<int>(count);
    NS_MPI(MPI_Get_accumulate(ignored.data(), n, MPI_INT64_T, values.data(), n, MPI_INT64_T, 0, 0, n,
                              MPI_INT64_T, MPI_NO_OP, window_));
    NS_MPI(MPI_Win_flush(0, window_));
    return values;
  }

 private:
  MPI_Win window_ = MPI_WIN_NULL;
  std::int64_t* memory_ = nullptr;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace

std::vector<Unit> cut_units(std::uint64_t rows, int ranks, std::uint64_t largest, std::uint64_t smallest) {
  NS_CHECK(ranks > 0 && smallest > 0 && largest >= smallest, "ranks {}, unit {}..{}", ranks, smallest,
           largest);
  std::vector<Unit> units;
  const auto share =
      2 * static_cast<std::uint64_t>(ranks);  // half of what is left goes out in one round of claims
  for (std::uint64_t at = 0; at < rows;) {
    const std::uint64_t left = rows - at;
    const std::uint64_t count = std::min(left, std::clamp(left / share, smallest, largest));
    units.push_back({at, count});
    at += count;
  }
  return units;
}

std::vector<std::uint32_t> claim_order(std::span<const Unit> units, std::span<const std::uint64_t> costs) {
  NS_CHECK(costs.empty() || costs.size() == units.size(), "{} costs for {} units", costs.size(),
           units.size());
  std::vector<std::uint32_t> order(units.size());
  std::iota(order.begin(), order.end(), 0u);
  if (costs.empty()) return order;
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return units[a].count != units[b].count ? units[a].count > units[b].count : costs[a] > costs[b];
  });
  return order;
}

struct WorkQueue::Impl {
  SharedCounters counter;
  std::int64_t units;
};

WorkQueue::WorkQueue(const Communicator& ranks, std::uint64_t units)
    : impl_(new Impl{SharedCounters(ranks.impl_->comm, ranks.rank(), 1), static_cast<std::int64_t>(units)}) {}
WorkQueue::~WorkQueue() = default;

std::optional<std::uint64_t> WorkQueue::claim() {
  const std::int64_t mine = impl_->counter.fetch_and_add(1);
  if (mine >= impl_->units) return std::nullopt;
  return static_cast<std::uint64_t>(mine);
}

struct ProgressBoard::Impl {
  SharedCounters rows;
  std::size_t rank, ranks, counters;
};

ProgressBoard::ProgressBoard(const Communicator& ranks, int counters)
    : impl_(new Impl{
          SharedCounters(ranks.impl_->comm, ranks.rank(),
                         static_cast<std::size_t>(ranks.size()) * static_cast<std::size_t>(counters)),
          static_cast<std::size_t>(ranks.rank()), static_cast<std::size_t>(ranks.size()),
          static_cast<std::size_t>(counters)}) {}
ProgressBoard::~ProgressBoard() = default;

void ProgressBoard::publish(std::span<const std::int64_t> counters) {
  NS_CHECK(counters.size() == impl_->counters, "{} counters, the board has {}", counters.size(),
           impl_->counters);
  impl_->rows.put(counters, impl_->rank * impl_->counters);
}

std::vector<std::int64_t> ProgressBoard::totals() {
  const std::vector<std::int64_t> all = impl_->rows.read(impl_->ranks * impl_->counters);
  std::vector<std::int64_t> totals(impl_->counters);
  for (std::size_t i = 0; i < all.size(); ++i) totals[i % impl_->counters] += all[i];
  return totals;
}

}  // namespace nightshift::parallel
