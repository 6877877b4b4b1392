// SPDX-License-Identifier: Apache-2.0
#include "kernels/team.h"

#include <omp.h>
#include <Kokkos_Core.hpp>

#include <algorithm>
#include <atomic>

namespace nightshift::kernels {
namespace {

using Host = Kokkos::DefaultHostExecutionSpace;
#ifdef KOKKOS_ENABLE_SERIAL
constexpr bool kThreadedKokkos = !std::is_same_v<Host, Kokkos::Serial>;
#else
constexpr bool kThreadedKokkos = true;
#endif

// Below this much work for each thread, waking it (10 to 20 us when teams wait passively) does not pay.
constexpr double kWorthAThread = 25e3;
constexpr double kWorthADraw = 2e3;

template <class Work>
void on_workers(const char* label, int workers, const Work& work) {
  using Policy = Kokkos::RangePolicy<Host>;
  if constexpr (kThreadedKokkos) {
    Kokkos::parallel_for(label, Policy(0, workers, Kokkos::ChunkSize(1)), work);
  } else {
    Kokkos::parallel_for(label, Policy(0, 1), [&](int) {
#pragma omp parallel for schedule(static, 1) num_threads(workers)
      for (int worker = 0; worker < workers; ++worker) work(worker);
    });
  }
  Host().fence();
}

}  // namespace

void for_each_tile(const char* label, int threads, std::int64_t tiles, double nanoseconds, TileBody body) {
  const auto worth = static_cast<std::int64_t>(std::min(nanoseconds / kWorthAThread, 1e6));
  const int workers = static_cast<int>(std::clamp<std::int64_t>(std::min(worth, tiles), 1, threads));
  if (workers == 1 || omp_in_parallel() != 0) {
    for (std::int64_t tile = 0; tile < tiles; ++tile) body(0, tile);
    return;
  }
  // Single tiles balance best; tiny ones are drawn in handfuls, so that the counter does not become the work.
  const double tile_cost = nanoseconds / static_cast<double>(tiles);
  const auto handful = static_cast<std::int64_t>(kWorthADraw / std::max(tile_cost, 1.0));
  const std::int64_t draw =
      std::clamp<std::int64_t>(handful, 1, std::max<std::int64_t>(1, tiles / (workers * 8)));
  std::atomic<std::int64_t> next{0};
  on_workers(label, workers, [&](int worker) {
    for (std::int64_t first; (first = next.fetch_add(draw, std::memory_order_relaxed)) < tiles;) {
      const std::int64_t last = std::min(first + draw, tiles);
      for (std::int64_t tile = first; tile < last; ++tile) body(worker, tile);
    }
  });
}

}  // namespace nightshift::kernels
