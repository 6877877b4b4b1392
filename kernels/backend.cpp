// SPDX-License-Identifier: Apache-2.0
// Which kernel set runs here, and how fast this machine can be.
#include <omp.h>
#include <Kokkos_Core.hpp>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <numeric>

#include "kernels/cpu_backend.h"
#include "kernels/gpu.h"
#include "kernels/team.h"

namespace nightshift::kernels {
namespace {

bool cpu_has_avx512_bf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

std::vector<const CpuKernels*> available() {  // best last
  std::vector<const CpuKernels*> sets{&portable_kernels()};
  if (cpu_has_avx512_bf16() && avx512_kernels() != nullptr) sets.push_back(avx512_kernels());
  return sets;
}

const CpuKernels& choose(const std::string& name) {
  const auto sets = available();
  if (name == "auto") return *sets.back();
  std::string names;
  for (const CpuKernels* set : sets) {
    if (name == set->name) return *set;
    names += std::string(names.empty() ? "" : ", ") + set->name;
  }
  throw Error(fmt::format("kernel set '{}' is not available on this machine", name),
              "available: auto, " + names);
}

// One thread is timed by its own CPU clock, so that neighbours on a shared machine do not lower its peak.
double now(int threads) {
  timespec t{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class F>
double seconds(int threads, const F& work) {
  const double begin = now(threads);
  work();
  return now(threads) - begin;
}

}  // namespace

std::vector<std::string> available_kernel_sets() {
  std::vector<std::string> names;
  for (const CpuKernels* set : available()) names.emplace_back(set->name);
  if (gpu_count() > 0) names.insert(names.end(), {"cuda_fast", "cuda"});
  return names;
}

std::unique_ptr<Backend> make_backend(const BackendOptions& options) {
  NS_CHECK(Kokkos::is_initialized(), "make_backend before kernels::Environment: construct one in main first");
  std::string name = options.kernels;
  const char* forced = std::getenv("NIGHTSHIFT_KERNELS");
  if (name == "auto" && forced != nullptr && *forced != '\0') name = forced;
  if (options.device == Device::cuda || name == "cuda" || name == "cuda_fast")
    return make_gpu_backend(options.gpu, name != "cuda_fast" && (options.strict || name == "cuda"));
  return std::make_unique<CpuBackend>(choose(name),
                                      options.threads > 0 ? options.threads : omp_get_max_threads());
}

CpuBackend::CpuBackend(const CpuKernels& kernels, int threads)
    : kernels_(kernels), threads_(threads), scratch_(allocate(kScratchBytes * threads, "kernels::scratch")) {}

// Both probes use the instructions that the kernels use. The best of several short runs: other work on the
// machine can only make a run slower.
PeakRates CpuBackend::measured_peak() {
  PeakRates peak;
  constexpr double kEnoughToUseAllThreads = 1e9;
  constexpr std::int64_t kIterations = 100'000;
  constexpr std::int64_t kChunk = 1 << 20;
  constexpr std::int64_t kBytes = 192 * kChunk;  // beyond most last-level caches' share of two cores
  const Buffer data = allocate(kBytes, "kernels::bandwidth_probe");
  std::fill_n(data.as<char>(), kBytes, char{1});
  std::vector<double> flops(threads_);
  std::vector<std::uint64_t> sums(threads_);
  for (int run = 0; run < 5; ++run) {
    const double multiplying = seconds(threads_, [&] {
      for_each_tile("kernels::peak_flops", threads_, threads_, kEnoughToUseAllThreads,
                    [&](int, std::int64_t tile) { flops[tile] = kernels_.multiply(kIterations); });
    });
    const double reading = seconds(threads_, [&] {
      for_each_tile("kernels::peak_bandwidth", threads_, kBytes / kChunk, kEnoughToUseAllThreads,
                    [&](int worker, std::int64_t tile) {
                      sums[worker] += kernels_.read(data.as<char>() + tile * kChunk, kChunk);
                    });
    });
    peak.bf16_flops =
        std::max(peak.bf16_flops, std::accumulate(flops.begin(), flops.end(), 0.0) / multiplying);
    peak.read_bandwidth = std::max(peak.read_bandwidth, static_cast<double>(kBytes) / reading);
  }
  NS_CHECK(std::accumulate(sums.begin(), sums.end(), std::uint64_t{0}) != 0,
           "the bandwidth probe read zeros");
  return peak;
}

}  // namespace nightshift::kernels
