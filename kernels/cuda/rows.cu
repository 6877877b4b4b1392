// SPDX-License-Identifier: Apache-2.0
// Row-wise operations, sampling reductions and products of the CUDA backend: shapes are checked, kernels
// started.
#include "kernels/cuda/rows.cuh"

#include <algorithm>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sampling.cuh"
#include "kernels/shape_check.h"

namespace nightshift::kernels::cuda {
namespace {

constexpr std::int64_t kMostRows = 65535;  // of a grid's second dimension
constexpr std::size_t kBlockSumBytes = sizeof(Candidate) * kRowThreads / kWarp;

unsigned count(std::int64_t n) {
  return static_cast<unsigned>(n);
}

// One thread for each element.
dim3 flat_grid(const char* operation, std::int64_t rows, std::int64_t cols) {
  NS_CHECK(rows <= kMostRows, "kernels::{}: {} rows, at most {}", operation, rows, kMostRows);
  return {count((cols + kFlatThreads - 1) / kFlatThreads), count(rows)};
}

template <class T>
dim3 flat_grid(const char* operation, const MatrixView<T>& y) {
  return flat_grid(operation, y.rows, y.cols);
}

void check_product(const char* operation, const MatrixView<const bf16>& x, const PackedView& w,
                   std::span<const std::int64_t> bounds, const MatrixView<float>& y) {
  check_bounds(operation, bounds, w.k, true);
  check_shape(operation, "x", x, x.rows, w.k);
  check_shape(operation, "y", y, x.rows, w.n);
}

}  // namespace

void CudaBackend::embed(MatrixView<const bf16> table, const TokenId* ids, MatrixView<float> y,
                        TokenId first_id, float scale) {
  check_shape("embed", "table", table, table.rows, y.cols);
  launch("kernels::embed", embed_kernel, flat_grid("embed", y), kFlatThreads, 0, stream_, table, ids, y,
         first_id, scale);
}

void CudaBackend::embed(const PackedView& table, const TokenId* ids, MatrixView<float> y, TokenId first_id,
                        float scale) {
  check_shape("embed", "y", y, y.rows, table.k);
  embed(MatrixView<const bf16>{table.data, table.n, table.k, table.panel_stride / kPanelRows}, ids, y,
        first_id, scale);
}

void CudaBackend::place_ids(const PendingId* pending, int count, const TokenId* sampled, TokenId* ids) {
  launch("kernels::place_ids", place_ids_kernel, flat_grid("place_ids", 1, count), kFlatThreads, 0, stream_,
         pending, count, sampled, ids);
}

void CudaBackend::rms_norm(MatrixView<const float> x, const float* weight, float eps, MatrixView<bf16> y) {
  check_shape("rms_norm", "y", y, x.rows, x.cols);
  launch("kernels::rms_norm", rms_norm_kernel, dim3(count(x.rows)), kRowThreads, kBlockSumBytes, stream_, x,
         NormArguments{weight, eps, y});
}

void CudaBackend::silu_mul(MatrixView<const float> gate, MatrixView<const float> up, MatrixView<bf16> y) {
  check_shape("silu_mul", "gate", gate, y.rows, y.cols);
  check_shape("silu_mul", "up", up, y.rows, y.cols);
  launch("kernels::silu_mul", silu_mul_kernel, flat_grid("silu_mul", y), kFlatThreads, 0, stream_, gate, up,
         y);
}

void CudaBackend::add(MatrixView<const float> x, MatrixView<float> y) {
  const std::int64_t stride = x.stride == 0 ? x.cols : x.stride;  // 0: one row onto every row
  check_shape("add", "x", MatrixView<const float>{x.data, x.rows, x.cols, stride}, y.rows, y.cols);
  launch("kernels::add", add_kernel, flat_grid("add", y), kFlatThreads, 0, stream_, x, y);
}

void CudaBackend::fill(MatrixView<float> y, float value) {
  launch("kernels::fill", fill_kernel, flat_grid("fill", y), kFlatThreads, 0, stream_, y, value);
}

void CudaBackend::to_bf16(MatrixView<const float> x, MatrixView<bf16> y) {
  check_shape("to_bf16", "x", x, y.rows, y.cols);
  launch("kernels::to_bf16", to_bf16_kernel, flat_grid("to_bf16", y), kFlatThreads, 0, stream_, x, y);
}

void CudaBackend::copy(MatrixView<const bf16> x, MatrixView<bf16> y) {
  check_shape("copy", "x", x, y.rows, y.cols);
  launch("kernels::copy", copy_kernel, flat_grid("copy", y), kFlatThreads, 0, stream_, x, y);
}

void CudaBackend::gather_rows(MatrixView<const float> x, const std::int32_t* rows, MatrixView<float> y) {
  check_shape("gather_rows", "y", y, y.rows, x.cols);
  launch("kernels::gather_rows", gather_rows_kernel, flat_grid("gather_rows", y), kFlatThreads, 0, stream_, x,
         rows, y);
}

void CudaBackend::argmax(MatrixView<const float> x, TokenId* ids, float* values) {
  launch("kernels::argmax", argmax_kernel, dim3(count(x.rows)), kRowThreads, kBlockSumBytes, stream_, x, ids,
         values);
}

void CudaBackend::sum_exp(MatrixView<const float> x, const float* row_max,
                          std::span<const std::int64_t> bounds, MatrixView<float> sums) {
  check_bounds("sum_exp", bounds, x.cols, false);
  check_shape("sum_exp", "sums", sums, x.rows, static_cast<std::int64_t>(bounds.size()) - 1);
  Bounds at{};
  std::copy(bounds.begin(), bounds.end(), at.at);
  launch("kernels::sum_exp", sum_exp_kernel, dim3(count(x.rows), count(sums.cols)), kRowThreads,
         kBlockSumBytes, stream_, x, row_max, at, sums);
}

void CudaBackend::top_k(MatrixView<const float> x, int k, MatrixView<TokenId> ids, MatrixView<float> values) {
  NS_CHECK(k >= 1 && k <= x.cols, "kernels::top_k: k = {} of {} columns", k, x.cols);
  check_shape("top_k", "ids", ids, x.rows, k);
  check_shape("top_k", "values", values, x.rows, k);
  launch("kernels::top_k", top_k_kernel, dim3(count(x.rows)), kRowThreads, kBlockSumBytes, stream_, x, k, ids,
         values);
}

void CudaBackend::add_tree(std::span<const MatrixView<const float>> parts, MatrixView<float> y) {
  NS_CHECK(!parts.empty() && parts.size() <= kMostParts, "kernels::add_tree: {} parts, expected 1 to {}",
           parts.size(), kMostParts);
  Parts from{};
  bool dense = y.stride == y.cols;
  for (const MatrixView<const float>& part : parts) {
    check_shape("add_tree", "a part", part, y.rows, y.cols);
    dense = dense && part.stride == part.cols;
    from.data[from.count] = part.data;
    from.stride[from.count++] = part.stride;
  }
  if (dense)
    y = {y.data, std::min<std::int64_t>(y.rows, 1),
         y.rows * y.cols};  // one long row: any number of short ones
  launch("kernels::add_tree", add_tree_kernel, flat_grid("add_tree", y), kFlatThreads, 0, stream_, from, y,
         false);
}

void CudaBackend::gemm(MatrixView<const bf16> x, const PackedView& w, MatrixView<float> y,
                       const float* bias) {
  check_shape("gemm", "x", x, x.rows, w.k);
  check_shape("gemm", "y", y, x.rows, w.n);
  products_->run({x, w.data, w.panel_stride / kPanelRows, y});
  if (bias != nullptr) add({bias, y.rows, y.cols, 0}, y);
}

void CudaBackend::gemm_reduced(MatrixView<const bf16> x, const PackedView& w,
                               std::span<const std::int64_t> bounds, MatrixView<float> y,
                               const RmsNorm* norm) {
  check_product("gemm_reduced", x, w, bounds, y);
  if (norm != nullptr) check_shape("gemm_reduced", "norm.out", norm->out, y.rows, y.cols);
  if (!strict_) {
    ProductBatch whole{x, w.data, w.panel_stride / kPanelRows, y};
    whole.accumulate = true;
    if (w.k > 0) products_->run(whole);
    if (norm != nullptr) rms_norm(y, norm->weight, norm->eps, norm->out);
    return;
  }
  const Parts parts = products_of_shards(x, w, bounds);
  if (norm != nullptr) {
    launch("kernels::add_tree", add_tree_norm_kernel, dim3(count(y.rows)), kRowThreads, kBlockSumBytes,
           stream_, parts, y, NormArguments{norm->weight, norm->eps, norm->out});
  } else {
    launch("kernels::add_tree", add_tree_kernel, flat_grid("gemm_reduced", y), kFlatThreads, 0, stream_,
           parts, y, false);
  }
}

void CudaBackend::gemm_partial(MatrixView<const bf16> x, const PackedView& w,
                               std::span<const std::int64_t> bounds, MatrixView<float> y) {
  check_product("gemm_partial", x, w, bounds, y);
  if (!strict_) {
    if (w.k == 0) return fill(y, 0.0F);  // a rank without any input feature
    return products_->run({x, w.data, w.panel_stride / kPanelRows, y});
  }
  launch("kernels::add_tree", add_tree_kernel, flat_grid("gemm_partial", y), kFlatThreads, 0, stream_,
         products_of_shards(x, w, bounds), y, true);
}

// A product for each shard into scratch memory, all of one size in one batched call where they are.
Parts CudaBackend::products_of_shards(MatrixView<const bf16> x, const PackedView& w,
                                      std::span<const std::int64_t> bounds) {
  const int shards = static_cast<int>(bounds.size()) - 1;
  const std::int64_t step = x.rows * w.n;
  auto* sums =
      static_cast<float*>(scratch_->reserve(static_cast<std::size_t>(shards * step) * sizeof(float)));
  const std::int64_t w_stride = w.panel_stride / kPanelRows;
  Parts parts{};
  parts.count = shards;
  for (int s = 0; s < shards;) {
    const std::int64_t depth = bounds[s + 1] - bounds[s];
    int same = 1;
    while (s + same < shards && bounds[s + same + 1] - bounds[s + same] == depth) ++same;
    for (int i = s; i < s + same; ++i) {
      parts.data[i] = depth == 0 ? nullptr : sums + i * step;
      parts.stride[i] = w.n;
    }
    if (depth > 0) {
      ProductBatch batch{{x.data + bounds[s], x.rows, depth, x.stride},
                         w.data + bounds[s],
                         w_stride,
                         {sums + s * step, x.rows, w.n}};
      batch.count = same;
      batch.x_step = batch.w_step = depth;
      batch.y_step = step;
      products_->run(batch);
    }
    s += same;
  }
  return parts;
}

void CudaBackend::gemm_silu_mul(MatrixView<const bf16> x, const PackedView& w, MatrixView<bf16> y,
                                const float* bias) {
  check_shape("gemm_silu_mul", "x", x, x.rows, w.k);
  NS_CHECK(w.n == gate_up_rows(y.cols) && y.rows == x.rows,
           "kernels::gemm_silu_mul: y is {} x {}, W has {} rows, x {}", y.rows, y.cols, w.n, x.rows);
  auto* sums = static_cast<float*>(scratch_->reserve(static_cast<std::size_t>(x.rows * w.n) * sizeof(float)));
  const MatrixView<float> gate_up{sums, x.rows, w.n};
  products_->run({x, w.data, w.panel_stride / kPanelRows, gate_up});
  launch("kernels::silu_mul", silu_mul_interleaved_kernel, flat_grid("gemm_silu_mul", y), kFlatThreads, 0,
         stream_, gate_up, bias, y);
}

}  // namespace nightshift::kernels::cuda
