// SPDX-License-Identifier: Apache-2.0
// Row-wise operations and sampling reductions of the CPU backend.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu_backend.h"
#include "kernels/device_sampler.h"
#include "kernels/shape_check.h"
#include "kernels/team.h"

namespace nightshift::kernels {
namespace {

// Nanoseconds per element on one core, only to decide how many threads to wake.
constexpr double kStreaming = 0.25;
constexpr double kSampling = 0.3;

constexpr float kNoRow =
    -0.0F;  // the only x for which y + x has the bits of y for every y, +0 and -0 included

template <class T>
double elements(const MatrixView<T>& m) {
  return static_cast<double>(m.rows) * static_cast<double>(m.cols);
}

struct Candidate {
  float value;
  std::int32_t id;
};

// Descending by value, then ascending by id; NaN ranks below everything. A total order, so "the k largest" is
// one set however it is found.
bool before(const Candidate& a, const Candidate& b) {
  const bool a_nan = std::isnan(a.value);
  const bool b_nan = std::isnan(b.value);
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.value != b.value) return a.value > b.value;
  return a.id < b.id;
}

// Keeps the k best of what it sees; a full buffer is cut back to k, which raises the bar for what comes next.
class Best {
 public:
  explicit Best(int k) : k_(static_cast<std::size_t>(k)) { kept_.reserve(2 * k_ + kChunk); }

  static constexpr std::int64_t kChunk = 4096;
  // -inf passes everything. Equal values seen later have higher ids and lose, but passing them is harmless.
  float bar() const { return bar_; }
  void add(const Candidate& c) { kept_.push_back(c); }
  void cut() {
    if (kept_.size() < 2 * k_) return;
    keep_best();
    bar_ = std::isnan(kept_.back().value) ? bar_ : kept_.back().value;
  }
  std::span<const Candidate> sorted() {
    if (kept_.size() > k_) keep_best();
    std::sort(kept_.begin(), kept_.end(), before);
    return kept_;
  }

 private:
  void keep_best() {  // leaves the k-th best at the back
    std::nth_element(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(k_) - 1, kept_.end(), before);
    kept_.resize(k_);
  }

  std::size_t k_;
  std::vector<Candidate> kept_;
  float bar_ = -std::numeric_limits<float>::infinity();
};

}  // namespace

void CpuBackend::embed(MatrixView<const bf16> table, const TokenId* ids, MatrixView<float> y,
                       TokenId first_id, float scale) {
  check_shape("embed", "table", table, table.rows, y.cols);
  for_each_tile("kernels::embed", threads_, y.rows, elements(y), [&](int, std::int64_t r) {
    const std::int64_t id = static_cast<std::int64_t>(ids[r]) - first_id;
    float* to = y.row(r);
    if (id < 0 || id >= table.rows) return std::fill_n(to, y.cols, kNoRow), void();
    const bf16* from = table.row(id);
    for (std::int64_t c = 0; c < y.cols; ++c) to[c] = static_cast<float>(from[c]) * scale;
  });
}

void CpuBackend::embed(const PackedView& table, const TokenId* ids, MatrixView<float> y, TokenId first_id,
                       float scale) {
  check_shape("embed", "y", y, y.rows, table.k);
  for_each_tile("kernels::embed", threads_, y.rows, 4 * elements(y), [&](int, std::int64_t r) {
    const std::int64_t id = static_cast<std::int64_t>(ids[r]) - first_id;
    float* to = y.row(r);
    if (id < 0 || id >= table.n) return std::fill_n(to, y.cols, kNoRow), void();
    const bf16* from = table.data + id / kPanelRows * table.panel_stride + id % kPanelRows * 2;
    for (std::int64_t c = 0; c < y.cols; ++c)
      to[c] = static_cast<float>(from[c / 2 * 2 * kPanelRows + c % 2]) * scale;
  });
}

void CpuBackend::rms_norm(MatrixView<const float> x, const float* weight, float eps, MatrixView<bf16> y) {
  check_shape("rms_norm", "y", y, x.rows, x.cols);
  for_each_tile("kernels::rms_norm", threads_, x.rows, elements(x) * kStreaming,
                [&](int, std::int64_t r) { kernels_.rms_norm(x.row(r), weight, eps, x.cols, y.row(r)); });
}

void CpuBackend::silu_mul(MatrixView<const float> gate, MatrixView<const float> up, MatrixView<bf16> y) {
  check_shape("silu_mul", "gate", gate, y.rows, y.cols);
  check_shape("silu_mul", "up", up, y.rows, y.cols);
  for_each_tile("kernels::silu_mul", threads_, y.rows, elements(y) * kStreaming * 2,
                [&](int, std::int64_t r) { kernels_.silu_mul(gate.row(r), up.row(r), y.cols, y.row(r)); });
}

void CpuBackend::add(MatrixView<const float> x, MatrixView<float> y) {
  const std::int64_t stride = x.stride == 0 ? x.cols : x.stride;  // 0: one row onto every row
  check_shape("add", "x", MatrixView<const float>{x.data, x.rows, x.cols, stride}, y.rows, y.cols);
  for_each_tile("kernels::add", threads_, y.rows, elements(y) * kStreaming,
                [&](int, std::int64_t r) { kernels_.add(x.row(r), y.cols, y.row(r)); });
}

void CpuBackend::fill(MatrixView<float> y, float value) {
  for_each_tile("kernels::fill", threads_, y.rows, elements(y) * kStreaming,
                [&](int, std::int64_t r) { std::fill_n(y.row(r), y.cols, value); });
}

void CpuBackend::to_bf16(MatrixView<const float> x, MatrixView<bf16> y) {
  check_shape("to_bf16", "x", x, y.rows, y.cols);
  for_each_tile("kernels::to_bf16", threads_, y.rows, elements(y) * kStreaming,
                [&](int, std::int64_t r) { kernels_.to_bf16(x.row(r), y.cols, y.row(r)); });
}

void CpuBackend::copy(MatrixView<const bf16> x, MatrixView<bf16> y) {
  check_shape("copy", "x", x, y.rows, y.cols);
  for_each_tile("kernels::copy", threads_, y.rows, elements(y) * kStreaming / 2,
                [&](int, std::int64_t r) { std::copy_n(x.row(r), y.cols, y.row(r)); });
}

void CpuBackend::gather_rows(MatrixView<const float> x, const std::int32_t* rows, MatrixView<float> y) {
  check_shape("gather_rows", "x", x, x.rows, y.cols);
  for (std::int64_t r = 0; r < y.rows; ++r) {
    NS_CHECK(rows[r] >= 0 && rows[r] < x.rows, "kernels::gather_rows: row {} of {}", rows[r], x.rows);
    std::copy_n(x.row(rows[r]), y.cols, y.row(r));
  }
}

void CpuBackend::argmax(MatrixView<const float> x, TokenId* ids, float* values) {
  NS_CHECK(x.cols > 0, "kernels::argmax: rows without columns");
  for_each_tile("kernels::argmax", threads_, x.rows, elements(x) * kStreaming,
                [&](int, std::int64_t r) { kernels_.argmax(x.row(r), x.cols, ids + r, values + r); });
}

void CpuBackend::sum_exp(MatrixView<const float> x, const float* row_max,
                         std::span<const std::int64_t> bounds, MatrixView<float> sums) {
  check_bounds("sum_exp", bounds, x.cols, false);
  const auto shards = static_cast<std::int64_t>(bounds.size()) - 1;
  check_shape("sum_exp", "sums", sums, x.rows, shards);
  for_each_tile(
      "kernels::sum_exp", threads_, x.rows * shards, elements(x) * kSampling, [&](int, std::int64_t tile) {
        const std::int64_t r = tile / shards;
        const std::int64_t s = tile % shards;
        sums.row(r)[s] = kernels_.sum_exp(x.row(r) + bounds[s], bounds[s + 1] - bounds[s], row_max[r]);
      });
}

void CpuBackend::top_k(MatrixView<const float> x, int k, MatrixView<TokenId> ids, MatrixView<float> values) {
  NS_CHECK(k >= 1 && k <= x.cols, "kernels::top_k: k = {} of {} columns", k, x.cols);
  check_shape("top_k", "ids", ids, x.rows, k);
  check_shape("top_k", "values", values, x.rows, k);
  for_each_tile("kernels::top_k", threads_, x.rows, elements(x) * kSampling + 20.0 * k,
                [&](int worker, std::int64_t r) {
                  auto* indices = static_cast<std::int32_t*>(scratch(worker));
                  Best best(k);
                  for (std::int64_t first = 0; first < x.cols; first += Best::kChunk) {
                    const float* chunk = x.row(r) + first;
                    const std::int64_t count =
                        kernels_.collect(chunk, std::min(Best::kChunk, x.cols - first), best.bar(), indices);
                    for (std::int64_t i = 0; i < count; ++i) {
                      best.add({chunk[indices[i]], static_cast<std::int32_t>(first + indices[i])});
                    }
                    best.cut();
                  }
                  const std::span<const Candidate> sorted = best.sorted();
                  for (int i = 0; i < k; ++i) {
                    ids.row(r)[i] = sorted[i].id;
                    values.row(r)[i] = sorted[i].value;
                  }
                });
}

std::unique_ptr<DeviceSampler> CpuBackend::make_sampler(int) {
  return nullptr;
}

}  // namespace nightshift::kernels
