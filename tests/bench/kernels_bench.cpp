// SPDX-License-Identifier: Apache-2.0
// GFLOP/s, GB/s and shares of the peaks measured in the same run, for the shapes that models have.
// Threads: OMP_NUM_THREADS. Kernel set: NIGHTSHIFT_KERNELS. Weights are taken in turn from copies that exceed
// the caches together ("dram"), or one copy that stays in them.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/kernels.h"

namespace {

using namespace nightshift;
using namespace nightshift::kernels;

std::unique_ptr<Backend> instance;  // lives in main, within the Environment
Backend& backend() {
  return *instance;
}

template <class T>
void fill_random(T* data, std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
  for (std::int64_t i = 0; i < n; ++i) data[i] = T(uniform(generator));
}

template <class T>
Matrix<T> random_matrix(std::int64_t rows, std::int64_t cols) {
  Matrix<T> m = backend().matrix<T>(rows, cols, "bench::matrix");
  fill_random(m.data(), rows * cols, 1);
  return m;
}

// One thread: its CPU clock, which neighbours on the machine do not stop. More: the wall clock.
double now() {
  timespec t{};
  clock_gettime(backend().threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The best rates seen so far in this process.
const PeakRates& peak() {
  static PeakRates best;
  const PeakRates current = backend().measured_peak();
  best.bf16_flops = std::max(best.bf16_flops, current.bf16_flops);
  best.read_bandwidth = std::max(best.read_bandwidth, current.read_bandwidth);
  return best;
}

// Times `work` and reports the rates of the best iteration as shares of the best peaks: on a shared machine
// means say more about the neighbours than about the kernel. Short work is timed in bundles.
template <class F>
void measure(benchmark::State& state, double flops, double bytes, const F& work) {
  work();
  const double begin = now();
  work();
  const int bundle = static_cast<int>(std::clamp(50e-6 / (now() - begin), 1.0, 1000.0));
  double best = std::numeric_limits<double>::infinity();
  for (auto _ : state) {
    const double start = now();
    for (int i = 0; i < bundle; ++i) work();
    const double seconds = (now() - start) / bundle;
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  const PeakRates& best_rates = peak();
  state.counters["best_us"] = best * 1e6;
  state.counters["GFLOP/s"] = flops / best * 1e-9;
  state.counters["GB/s"] = bytes / best * 1e-9;
  state.counters["%flops"] = 100.0 * flops / best / best_rates.bf16_flops;
  state.counters["%read"] = 100.0 * bytes / best / best_rates.read_bandwidth;
}

constexpr std::int64_t kBeyondCaches = std::int64_t{640} << 20;

// range: M, N, K, from DRAM
void BM_gemm(benchmark::State& state) {
  const std::int64_t m = state.range(0);
  const std::int64_t n = state.range(1);
  const std::int64_t k = state.range(2);
  const double bytes = static_cast<double>(backend().packed_bytes(n, k));
  const auto copies = state.range(3) != 0 ? static_cast<std::int64_t>(kBeyondCaches / bytes) + 1 : 1;
  const Buffer weights = backend().allocate(static_cast<std::size_t>(bytes) * copies, "bench::weights");
  std::vector<PackedMatrix> w;
  for (std::int64_t i = 0; i < copies; ++i) {
    std::byte* memory = weights.as<std::byte>() + i * static_cast<std::int64_t>(bytes);
    w.push_back(backend().make_packed(n, k, {memory, static_cast<std::size_t>(bytes)}));
    fill_random(w.back().data(), i == 0 ? n * k : 0, 2);
    if (i > 0) std::memcpy(static_cast<void*>(w[i].data()), w[0].data(), static_cast<std::size_t>(bytes));
  }
  const auto x = random_matrix<bf16>(m, k);
  const auto y = backend().matrix<float>(m, n, "bench::y");
  std::size_t turn = 0;
  measure(state, 2.0 * static_cast<double>(m * n * k), bytes,
          [&] { backend().gemm(x, w[turn++ % w.size()], y); });
}
// Qwen2.5-0.5B: qkv, gate|up; Llama-3-8B: qkv, gate|up
BENCHMARK(BM_gemm)
    ->ArgNames({"M", "N", "K", "dram"})
    ->UseManualTime()
    ->ArgsProduct({{1}, {1152}, {896}, {1}})
    ->ArgsProduct({{1, 4, 16, 64}, {9728}, {896}, {1}})
    ->ArgsProduct({{64, 128, 512, 2048}, {1152, 9728}, {896}, {0}})
    ->ArgsProduct({{1, 8}, {6144}, {4096}, {1}})
    ->ArgsProduct({{64, 512}, {6144}, {4096}, {0}});

// range: M, N, K. The down projections: eight shards.
void BM_gemm_reduced(benchmark::State& state) {
  const std::int64_t m = state.range(0);
  const std::int64_t n = state.range(1);
  const std::int64_t k = state.range(2);
  PackedMatrix w = backend().make_packed(n, k);
  fill_random(w.data(), n * k, 3);
  const auto x = random_matrix<bf16>(m, k);
  const auto y = random_matrix<float>(m, n);
  std::vector<std::int64_t> bounds;
  for (int s = 0; s <= kReductionShards; ++s) bounds.push_back(k / 2 * s / kReductionShards * 2);
  measure(state, 2.0 * static_cast<double>(m * n * k), 2.0 * static_cast<double>(n * k),
          [&] { backend().gemm_reduced(x, w, bounds, y); });
}
BENCHMARK(BM_gemm_reduced)
    ->ArgNames({"M", "N", "K"})
    ->UseManualTime()
    ->ArgsProduct({{1, 64, 512}, {896}, {4864}})
    ->ArgsProduct({{1, 64, 512}, {4096}, {14336}})
    ->ArgsProduct({{512}, {896}, {896}});

void BM_gemm_silu_mul(benchmark::State& state) {
  const std::int64_t m = state.range(0);
  const std::int64_t intermediate = state.range(1);
  const std::int64_t k = state.range(2);
  PackedMatrix w = backend().make_packed(gate_up_rows(intermediate), k);
  fill_random(w.data(), w.n() * k, 4);
  const auto x = random_matrix<bf16>(m, k);
  const auto y = backend().matrix<bf16>(m, intermediate, "bench::y");
  measure(state, 4.0 * static_cast<double>(m * intermediate * k), 4.0 * static_cast<double>(intermediate * k),
          [&] { backend().gemm_silu_mul(x, w, y); });
}
BENCHMARK(BM_gemm_silu_mul)
    ->ArgNames({"M", "I", "K"})
    ->UseManualTime()
    ->Args({1, 4864, 896})
    ->Args({512, 4864, 896});

struct Cache {
  KvCache kv;
  std::vector<std::vector<BlockId>> blocks;  // of each sequence, scattered
};

Cache filled_cache(const AttentionShape& s, int sequences, int context) {
  const int per_sequence = (context + kKvBlockTokens - 1) / kKvBlockTokens;
  Cache cache{backend().make_kv_cache({1, s.kv_heads, s.head_dim, sequences * per_sequence}), {}};
  fill_random(cache.kv.head(0, 0, 0), static_cast<std::int64_t>(cache.kv.bytes() / sizeof(bf16)), 5);
  std::vector<BlockId> order(sequences * per_sequence);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(6));
  for (int i = 0; i < sequences; ++i) {
    cache.blocks.emplace_back(order.begin() + i * per_sequence, order.begin() + (i + 1) * per_sequence);
  }
  return cache;
}

// range: heads, kv_heads, head_dim, context, query tokens per sequence (the last ones), sequences
void BM_attention(benchmark::State& state) {
  const AttentionShape s{static_cast<int>(state.range(0)), static_cast<int>(state.range(1)),
                         static_cast<int>(state.range(2))};
  const int context = static_cast<int>(state.range(3));
  const int queries = static_cast<int>(state.range(4));
  const int sequences = static_cast<int>(state.range(5));
  const Cache cache = filled_cache(s, sequences, context);
  std::vector<SequenceSlice> slices;
  for (int i = 0; i < sequences; ++i) {
    slices.push_back({static_cast<std::int64_t>(i) * queries, queries, context - queries, cache.blocks[i]});
  }
  const auto batch = backend().prepare(slices);
  const auto q = random_matrix<bf16>(batch->rows(), static_cast<std::int64_t>(s.heads) * s.head_dim);
  const auto out = backend().matrix<bf16>(q.rows(), q.cols(), "bench::out");
  double scores = 0.0;
  for (int p = context - queries; p < context; ++p) scores += p + 1.0;
  const double bytes = static_cast<double>(context) * s.kv_heads * s.head_dim * 4 * sequences;
  measure(state, scores * s.heads * s.head_dim * 4 * sequences, bytes,
          [&] { backend().attention(q, s, *batch, cache.kv, 0, 0.1F, 0, out); });
}
BENCHMARK(BM_attention)
    ->ArgNames({"H", "Hkv", "D", "context", "queries", "sequences"})
    ->UseManualTime()
    ->Args({14, 2, 64, 2048, 2048, 1})
    ->Args({32, 8, 128, 2048, 2048, 1})
    ->Args({32, 8, 128, 2048, 256, 1})
    ->Args({14, 2, 64, 512, 512, 4})
    ->Args({14, 2, 64, 1024, 1, 64})
    ->Args({32, 8, 128, 1024, 1, 64})
    ->Args({32, 32, 128, 1024, 1, 16})
    ->Args({32, 8, 128, 8192, 1, 1})
    ->Args({8, 2, 32, 100, 1, 8});

void BM_rms_norm(benchmark::State& state) {
  const auto x = random_matrix<float>(state.range(0), state.range(1));
  const auto weight = random_matrix<float>(1, state.range(1));
  const auto y = backend().matrix<bf16>(x.rows(), x.cols(), "bench::y");
  measure(state, 0.0, 6.0 * static_cast<double>(x.rows() * x.cols()),
          [&] { backend().rms_norm(x, weight.data(), 1e-6F, y); });
}
BENCHMARK(BM_rms_norm)
    ->ArgNames({"M", "hidden"})
    ->UseManualTime()
    ->Args({1, 256})
    ->Args({512, 896})
    ->Args({2048, 4096});

// range: tokens, heads, KV heads, head_dim, owners of heads, append (0 or 1)
void BM_rope(benchmark::State& state) {
  const int tokens = static_cast<int>(state.range(0));
  const int owners = static_cast<int>(state.range(4));
  const AttentionShape s{static_cast<int>(state.range(1)) / owners, static_cast<int>(state.range(2)) / owners,
                         static_cast<int>(state.range(3))};
  QkvLayout layout{s, owners, 0};
  layout.group_stride = layout.width();
  Cache cache = filled_cache(s, 1, tokens);
  const auto batch = backend().prepare(std::vector{SequenceSlice{0, tokens, 0, cache.blocks[0]}});
  const auto qkv = random_matrix<float>(tokens, owners * layout.width());
  const auto heads = backend().matrix<bf16>(owners * tokens, layout.width(), "bench::heads");
  const auto table = random_matrix<float>(tokens, s.head_dim / 2);
  const std::int64_t q_columns = static_cast<std::int64_t>(s.heads) * s.head_dim;
  const auto kv = heads.view().rows_from(0, tokens).cols_from(q_columns, layout.width() - q_columns);
  measure(state, 0.0, 6.0 * static_cast<double>(qkv.rows() * qkv.cols()), [&] {
    backend().rope(qkv, layout, *batch, 0, {table, table}, {}, heads);
    if (state.range(5) != 0) backend().append(kv, s, *batch, cache.kv, 0);
  });
}
BENCHMARK(BM_rope)
    ->ArgNames({"M", "H", "Hkv", "D", "owners", "append"})
    ->UseManualTime()
    ->Args({1, 4, 2, 64, 1, 1})
    ->ArgsProduct({{512}, {14}, {2}, {64}, {1, 2}, {0}})
    ->ArgsProduct({{512}, {32}, {8}, {128}, {1, 8}, {0}})
    ->Args({512, 14, 2, 64, 1, 1})
    ->Args({512, 32, 8, 128, 1, 1});

// range: parts, rows, columns
void BM_add_tree(benchmark::State& state) {
  std::vector<Matrix<float>> parts;
  std::vector<MatrixView<const float>> views;
  for (int i = 0; i < state.range(0); ++i) {
    parts.push_back(random_matrix<float>(state.range(1), state.range(2)));
    views.push_back(parts.back());
  }
  const auto y = random_matrix<float>(state.range(1), state.range(2));
  measure(state, 0.0, 4.0 * static_cast<double>(y.rows() * y.cols()) * static_cast<double>(parts.size() + 2),
          [&] { backend().add_tree(views, y); });
}
BENCHMARK(BM_add_tree)
    ->ArgNames({"parts", "M", "N"})
    ->UseManualTime()
    ->ArgsProduct({{2, 4, 8}, {64}, {896}})
    ->ArgsProduct({{2, 8}, {64 * 896 / 64}, {64}})
    ->ArgsProduct({{2, 8}, {512}, {4096}});

void BM_silu_mul(benchmark::State& state) {
  const auto gate = random_matrix<float>(state.range(0), state.range(1));
  const auto up = random_matrix<float>(state.range(0), state.range(1));
  const auto y = backend().matrix<bf16>(gate.rows(), gate.cols(), "bench::y");
  measure(state, 0.0, 10.0 * static_cast<double>(gate.rows() * gate.cols()),
          [&] { backend().silu_mul(gate, up, y); });
}
BENCHMARK(BM_silu_mul)->ArgNames({"M", "I"})->UseManualTime()->Args({1, 704})->Args({512, 4864});

// range: rows, vocabulary
void BM_sampling(benchmark::State& state) {
  const auto x = random_matrix<float>(state.range(0), state.range(1));
  const auto ids = backend().matrix<TokenId>(x.rows(), 64, "bench::ids");
  const auto values = backend().matrix<float>(x.rows(), 64, "bench::values");
  const std::vector<std::int64_t> bounds{0, x.cols()};
  const auto sums = backend().matrix<float>(x.rows(), 1, "bench::sums");
  const int what = static_cast<int>(state.range(2));
  backend().argmax(x, ids.data(), values.data());
  measure(state, 0.0, 4.0 * static_cast<double>(x.rows() * x.cols()), [&] {
    if (what == 0) backend().argmax(x, ids.data(), values.data());
    if (what == 1) backend().sum_exp(x, values.data(), bounds, sums);
    if (what == 2) backend().top_k(x, 64, ids, values);
  });
}
BENCHMARK(BM_sampling)
    ->ArgNames({"M", "V", "argmax_sumexp_top64"})
    ->UseManualTime()
    ->ArgsProduct({{1, 64}, {151936}, {0, 1, 2}});

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const Environment environment;
  instance = make_backend();
  benchmark::AddCustomContext("kernel set", std::string(backend().kernel_set()));
  benchmark::AddCustomContext("threads", std::to_string(backend().threads()));
  for (int i = 0; i < 5; ++i) peak();
  benchmark::AddCustomContext("peak GFLOP/s", std::to_string(peak().bf16_flops * 1e-9));
  benchmark::AddCustomContext("peak read GB/s", std::to_string(peak().read_bandwidth * 1e-9));
  benchmark::RunSpecifiedBenchmarks();
  instance.reset();
  return 0;
}
