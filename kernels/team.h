// SPDX-License-Identifier: Apache-2.0
// The room's only loop over threads.
//
// Every operation is cut into tiles whose results do not depend on who computes them; workers draw tiles from
// a counter, which also evens out causal attention and noisy cores. The workers are the iterations of one
// labelled Kokkos::parallel_for. Where the installed Kokkos has no threaded host space (Debian's is Serial
// only), its single iteration opens an OpenMP team of the same size, so speed and thread count do not depend
// on which Kokkos was found. Small operations stay on the calling thread: waking a parked team costs more
// than they do.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace nightshift::kernels {

// A reference to a callable void(int worker, int64 tile); lives no longer than the call it is passed to.
class TileBody {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::remove_cvref_t<F>, TileBody>>>
  TileBody(F&& body)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(body)))),
        call_([](void* object, int worker, std::int64_t tile) {
          (*static_cast<std::remove_reference_t<F>*>(object))(worker, tile);
        }) {}
  void operator()(int worker, std::int64_t tile) const { call_(object_, worker, tile); }

 private:
  void* object_;
  void (*call_)(void*, int, std::int64_t);
};

// Runs body(worker, tile) once for every tile in [0, tiles). 0 <= worker < threads. `nanoseconds` is a rough
// guess of the whole work on one thread; it decides how many threads are worth waking, never what is
// computed. Within a tile of another loop everything runs on the calling thread, as worker 0: only what needs
// no scratch memory (packing) may be nested.
void for_each_tile(const char* label, int threads, std::int64_t tiles, double nanoseconds, TileBody body);

}  // namespace nightshift::kernels
