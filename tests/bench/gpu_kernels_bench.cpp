// SPDX-License-Identifier: Apache-2.0
// Rates of one GPU's kernels in the shapes of Llama-3.1-8B, beside the copy and product rates of the same
// run, as Markdown.
//
//   gpu_kernels_bench [--small] [--device N]
//
// decode attention     32 sequences of 4,096 tokens, 32 query heads over 8, D 128; GB/s of keys and values
// prefill attention    one prompt of 8,192 tokens, causal; TFLOP/s of the scores that are needed
// products             the four weight shapes, 1 to 8,192 rows; in turn from copies that do not fit into the
// L2 cache together row-parallel sums    strict (eight shards and their tree) against fast (one product that
// adds to y) sampling             rows of 128,256 logits
// --small: sizes for a simulated GPU, whose figures mean nothing. Medians of several rounds, each of many
// calls; data is random, since products of zeros are faster.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "core/reduction.h"
#include "kernels/gpu.h"

namespace nightshift {
namespace {

using namespace kernels;

constexpr AttentionShape kHeads{32, 8, 128};
constexpr std::int64_t kHidden = 4096, kIntermediate = 14336;

struct Sizes {
  double round_seconds = 20e-3;
  int rounds = 7;
  int decode_sequences = 32, decode_context = 4096, prefill_tokens = 8192;
  std::int64_t divide = 1;  // of the products' N and K
  std::vector<std::int64_t> rows{1, 16, 64, 256, 1024, 4096, 8192};
  std::int64_t sampled_rows = 256, vocabulary = 128256;
};

Sizes small() {
  return {.round_seconds = 0.0,
          .rounds = 1,
          .decode_sequences = 2,
          .decode_context = 100,
          .prefill_tokens = 96,
          .divide = 32,
          .rows = {1, 16},
          .sampled_rows = 2,
          .vocabulary = 1000};
}

class Bench {
 public:
  Bench(int device, const Sizes& sizes)
      : sizes_(sizes), strict_(make_gpu_backend(device, true)), fast_(make_gpu_backend(device, false)) {
    std::mt19937 generator(1);
    std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
    noise_.resize(std::size_t{1} << 20);
    for (float& x : noise_) x = uniform(generator);
  }

  void all() {
    peak_ = strict_->measured_peak();
    fmt::print("| | figure | share |\n|---|---|---|\n");
    print("copy within the GPU, read and written", peak_.read_bandwidth, "GB/s", 1e-9, 0.0, "");
    print("product 8192 x 8192 x 8192, bf16", peak_.bf16_flops, "TFLOP/s", 1e-12, 0.0, "");
    uploads();
    decode_attention();
    prefill_attention();
    products();
    reduced_products();
    sampling();
  }

 private:
  void print(const std::string& what, double rate, const char* unit, double scale, double share,
             const char* of) {
    const std::string portion = share > 0.0 ? fmt::format("{:.1f} % of {}", 100 * share, of) : "";
    fmt::print("| {} | {:.1f} {} | {} |\n", what, rate * scale, unit, portion);
    std::fflush(stdout);
  }
  void flops(const std::string& what, double rate) {
    print(what, rate, "TFLOP/s", 1e-12, rate / peak_.bf16_flops, "product");
  }
  void bytes(const std::string& what, double rate) {
    print(what, rate, "GB/s", 1e-9, rate / peak_.read_bandwidth, "copy");
  }

  // Seconds of one call: the median of rounds that are long beside the launches and the wait at their end.
  double seconds(Backend& backend, const std::function<void()>& work) const {
    const auto timed = [&](int calls) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < calls; ++i) work();
      backend.synchronize();
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    timed(1);
    const int calls = std::max(1, static_cast<int>(sizes_.round_seconds / timed(1)));
    std::vector<double> rounds;
    for (int i = 0; i < sizes_.rounds; ++i) rounds.push_back(timed(calls) / calls);
    std::nth_element(rounds.begin(), rounds.begin() + sizes_.rounds / 2, rounds.end());
    return rounds[static_cast<std::size_t>(sizes_.rounds / 2)];
  }

  template <class T>
  void fill(T* device, std::int64_t count) {
    std::vector<T> values(noise_.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = T(noise_[i]);
    for (std::int64_t at = 0; at < count; at += static_cast<std::int64_t>(values.size()))
      strict_->copy_to_device(device + at, values.data(),
                              sizeof(T) * static_cast<std::size_t>(std::min<std::int64_t>(
                                              count - at, static_cast<std::int64_t>(values.size()))));
    strict_->synchronize();  // the other backend has a stream of its own
  }
  template <class T>
  Matrix<T> random(std::int64_t rows, std::int64_t cols) {
    Matrix<T> m = strict_->matrix<T>(rows, cols, "bench::random");
    fill(m.data(), rows * cols);
    return m;
  }
  PackedMatrix weights(std::int64_t n, std::int64_t k) {
    PackedMatrix w = strict_->make_packed(n, k);
    fill(w.data(), n * k);
    return w;
  }

  // Page-locked memory to the GPU, as fast as it goes: what loading a model is measured against.
  void uploads() {
    const std::int64_t rows = std::max<std::int64_t>(65536 / sizes_.divide / sizes_.divide, 64), cols = 2048;
    const std::size_t size = static_cast<std::size_t>(rows * cols) * sizeof(bf16);
    const Buffer host = strict_->allocate_host(size, "bench::host");
    for (std::size_t at = 0; at < size; at += noise_.size() * sizeof(float))
      std::memcpy(host.as<std::byte>() + at, noise_.data(),
                  std::min(size - at, noise_.size() * sizeof(float)));
    PackedMatrix w = strict_->make_packed(rows, cols);
    const double time = seconds(*strict_, [&] { strict_->pack_rows(w, 0, {host.as<bf16>(), rows, cols}); });
    print("page-locked memory to the GPU", static_cast<double>(size) / time, "GB/s", 1e-9, 0.0, "");
  }

  struct Batch {
    KvCache cache;
    std::vector<std::vector<BlockId>> blocks;  // scattered, as after hours of a job
    std::unique_ptr<AttentionBatch> prepared;
  };
  Batch batch(int sequences, int context, int queries) {
    const int each = (context + kKvBlockTokens - 1) / kKvBlockTokens;
    Batch b{strict_->make_kv_cache({1, kHeads.kv_heads, kHeads.head_dim, sequences * each}), {}, nullptr};
    fill(b.cache.head(0, 0, 0), static_cast<std::int64_t>(b.cache.bytes() / sizeof(bf16)));
    std::vector<BlockId> order(static_cast<std::size_t>(sequences * each));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(2));
    std::vector<SequenceSlice> slices;
    for (int i = 0; i < sequences; ++i)
      b.blocks.emplace_back(order.begin() + i * each, order.begin() + (i + 1) * each);
    for (int i = 0; i < sequences; ++i)
      slices.push_back({static_cast<std::int64_t>(i) * queries, queries, context - queries,
                        b.blocks[static_cast<std::size_t>(i)]});
    b.prepared = strict_->prepare(slices);
    return b;
  }
  double attention_seconds(const Batch& b) {
    const auto q =
        random<bf16>(b.prepared->rows(), static_cast<std::int64_t>(kHeads.heads) * kHeads.head_dim);
    const auto out = strict_->matrix<bf16>(q.rows(), q.cols(), "bench::out");
    return seconds(*strict_,
                   [&] { strict_->attention(q, kHeads, *b.prepared, b.cache, 0, 0.0884F, 0, out); });
  }

  void decode_attention() {
    const int sequences = sizes_.decode_sequences, context = sizes_.decode_context;
    const double time = attention_seconds(batch(sequences, context, 1));
    bytes(fmt::format("decode attention, {} x {}", sequences, context),
          4.0 * kHeads.kv_heads * kHeads.head_dim * sequences * context / time);
  }
  void prefill_attention() {
    const double tokens = sizes_.prefill_tokens;
    const double time = attention_seconds(batch(1, sizes_.prefill_tokens, sizes_.prefill_tokens));
    flops(fmt::format("causal prefill, {} tokens", tokens),
          4.0 * kHeads.heads * kHeads.head_dim * tokens * (tokens + 1) / 2 / time);
  }

  struct Shape {
    const char* name;
    std::int64_t n, k;
  };
  void products() {
    for (const Shape& shape :
         {Shape{"qkv", 6144, kHidden}, Shape{"attention out", kHidden, kHidden},
          Shape{"gate, up", 2 * kIntermediate, kHidden}, Shape{"down", kHidden, kIntermediate}}) {
      const std::int64_t n = shape.n / sizes_.divide, k = shape.k / sizes_.divide;
      std::vector<PackedMatrix> w;
      for (int i = 0; i < 4; ++i) w.push_back(weights(n, k));
      for (const std::int64_t m : sizes_.rows) {
        const auto x = random<bf16>(m, k);
        const auto y = strict_->matrix<float>(m, n, "bench::y");
        for (Backend* backend : {fast_.get(), strict_.get()}) {
          std::size_t turn = 0;
          const double time = seconds(*backend, [&] { backend->gemm(x, w[turn++ % w.size()], y); });
          const std::string what =
              fmt::format("{} [{}, {}], M {}, {}", shape.name, n, k, m, backend->kernel_set());
          if (m <= 64) bytes(what, 2.0 * static_cast<double>(n * k) / time);
          if (m > 64) flops(what, 2.0 * static_cast<double>(m * n * k) / time);
        }
      }
    }
  }

  void reduced_products() {
    for (const Shape& shape :
         {Shape{"attention out", kHidden, kHidden}, Shape{"down", kHidden, kIntermediate}}) {
      const std::int64_t n = shape.n / sizes_.divide, k = shape.k / sizes_.divide;
      const PackedMatrix w = weights(n, k);
      const ReductionBounds bounds =
          reduction_bounds(k, shape.k == kHidden ? kHeads.head_dim / sizes_.divide : 32);
      for (const std::int64_t m : sizes_.rows) {
        const auto x = random<bf16>(m, k);
        const auto y = random<float>(m, n);
        const double strict = seconds(*strict_, [&] { strict_->gemm_reduced(x, w, bounds, y); });
        const double fast = seconds(*fast_, [&] { fast_->gemm_reduced(x, w, bounds, y); });
        print(fmt::format("{} summed up, M {}, strict", shape.name, m),
              2.0 * static_cast<double>(m * n * k) / strict, "TFLOP/s", 1e-12, fast / strict, "fast");
      }
    }
  }

  void sampling() {
    const auto x = random<float>(sizes_.sampled_rows, sizes_.vocabulary);
    const auto ids = strict_->matrix<TokenId>(x.rows(), 20, "bench::ids");
    const auto values = strict_->matrix<float>(x.rows(), 20, "bench::values");
    const auto sums = strict_->matrix<float>(x.rows(), 1, "bench::sums");
    const std::vector<std::int64_t> bounds{0, x.cols()};
    const double read = 4.0 * static_cast<double>(x.rows() * x.cols());
    const std::string rows = fmt::format("{} x {}", x.rows(), x.cols());
    bytes("argmax of " + rows,
          read / seconds(*strict_, [&] { strict_->argmax(x, ids.data(), values.data()); }));
    bytes("sum of exponentials of " + rows,
          read / seconds(*strict_, [&] { strict_->sum_exp(x, values.data(), bounds, sums); }));
    bytes("20 largest of " + rows, read / seconds(*strict_, [&] { strict_->top_k(x, 20, ids, values); }));
  }

  Sizes sizes_;
  std::unique_ptr<Backend> strict_, fast_;
  std::vector<float> noise_;
  PeakRates peak_;
};

}  // namespace
}  // namespace nightshift

int main(int argc, char** argv) {
  nightshift::Sizes sizes;
  int device = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--small") == 0) sizes = nightshift::small();
    if (std::strcmp(argv[i], "--device") == 0 && i + 1 < argc) device = std::atoi(argv[i + 1]);
  }
  try {
    nightshift::Bench(device, sizes).all();
  } catch (const nightshift::Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
