// SPDX-License-Identifier: Apache-2.0
#include <omp.h>
#include <Kokkos_Core.hpp>

#include "kernels/kernels.h"

namespace nightshift::kernels {

Environment::Environment(int threads) : threads_(threads > 0 ? threads : omp_get_max_threads()) {
  NS_CHECK(!Kokkos::is_initialized(), "one kernels::Environment per process: Kokkos is already running");
  omp_set_num_threads(threads_);
#if KOKKOS_VERSION >= 30700
  Kokkos::initialize(Kokkos::InitializationSettings().set_num_threads(threads_).set_disable_warnings(true));
#else
  Kokkos::InitArguments arguments;
  arguments.num_threads = threads_;
  arguments.disable_warnings = true;
  Kokkos::initialize(arguments);
#endif
}

Environment::~Environment() {
  Kokkos::finalize();
}

}  // namespace nightshift::kernels
