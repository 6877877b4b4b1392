// SPDX-License-Identifier: Apache-2.0
// Matrix products of the CPU backend: panels x row blocks are the tiles.
#include <algorithm>
#include <array>

#include "kernels/cpu_backend.h"
#include "kernels/shape_check.h"
#include "kernels/team.h"

namespace nightshift::kernels {
namespace {

// Rough costs on one core, only to decide how many threads to wake.
constexpr double kNanosecondsPerFlop = 0.005;
constexpr double kNanosecondsPerByte = 0.05;
constexpr double kNanosecondsPerAddend = 0.1;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

constexpr std::int64_t kTreeColumns = 4096;  // of one tile of add_tree

}  // namespace

void CpuBackend::product(const char* label, MatrixView<const bf16> x, const PackedView& w, GemmBlock block,
                         std::int64_t columns, int columns_per_panel) {
  NS_CHECK(x.cols == w.k && x.stride >= x.cols, "{}: x is {} x {} (stride {}), W is {} x {}", label, x.rows,
           x.cols, x.stride, w.n, w.k);
  if (x.rows == 0 || columns == 0) return;
  const std::int64_t row_blocks = ceil_div(x.rows, kMaxBlockRows);
  const std::int64_t block_rows = ceil_div(x.rows, row_blocks);
  const std::int64_t panels = ceil_div(columns, columns_per_panel);
  const double weights = static_cast<double>(panels) * kPanelRows * static_cast<double>(w.k);
  const double cost =
      weights * (2.0 * static_cast<double>(x.rows) * kNanosecondsPerFlop + 2.0 * kNanosecondsPerByte);
  // Row blocks of a panel are neighbours in tile order: the panel is still in cache for the second one.
  for_each_tile(label, threads_, panels * row_blocks, cost, [&](int worker, std::int64_t tile) {
    const std::int64_t panel = tile / row_blocks;
    const std::int64_t row = tile % row_blocks * block_rows;
    const std::int64_t column = panel * columns_per_panel;
    GemmBlock b = block;
    b.x = x.row(row);
    b.x_stride = x.stride;
    b.rows = static_cast<int>(std::min(block_rows, x.rows - row));
    b.panel = w.data + panel * w.panel_stride;
    b.cols = static_cast<int>(std::min<std::int64_t>(columns_per_panel, columns - column));
    if (b.y != nullptr) b.y += row * b.y_stride + column;
    if (b.y16 != nullptr) b.y16 += row * b.y_stride + column;
    if (b.bias != nullptr) b.bias += panel * kPanel;
    b.scratch = scratch(worker);
    if (b.rows > 0) kernels_.gemm(b);
  });
}

void CpuBackend::gemm(MatrixView<const bf16> x, const PackedView& w, MatrixView<float> y, const float* bias) {
  check_shape("gemm", "y", y, x.rows, w.n);
  const std::array<std::int64_t, 2> bounds{0, w.k};
  GemmBlock block{};
  block.bounds = bounds.data();
  block.shards = 1;
  block.store = Store::assign;
  block.y = y.data;
  block.y_stride = y.stride;
  block.bias = bias;
  product("kernels::gemm", x, w, block, w.n, kPanel);
}

void CpuBackend::gemm_reduced(MatrixView<const bf16> x, const PackedView& w,
                              std::span<const std::int64_t> bounds, MatrixView<float> y,
                              const RmsNorm* norm) {
  check_shape("gemm_reduced", "y", y, x.rows, w.n);
  check_bounds("gemm_reduced", bounds, w.k, true);
  GemmBlock block{};
  block.bounds = bounds.data();
  block.shards = static_cast<int>(bounds.size()) - 1;
  block.store = Store::add;
  block.y = y.data;
  block.y_stride = y.stride;
  product("kernels::gemm_reduced", x, w, block, w.n, kPanel);
  if (norm != nullptr) rms_norm(y, norm->weight, norm->eps, norm->out);
}

void CpuBackend::gemm_partial(MatrixView<const bf16> x, const PackedView& w,
                              std::span<const std::int64_t> bounds, MatrixView<float> y) {
  check_shape("gemm_partial", "y", y, x.rows, w.n);
  check_bounds("gemm_partial", bounds, w.k, true);
  GemmBlock block{};
  block.bounds = bounds.data();
  block.shards = static_cast<int>(bounds.size()) - 1;
  block.store = Store::assign;
  block.y = y.data;
  block.y_stride = y.stride;
  product("kernels::gemm_partial", x, w, block, w.n, kPanel);
}

void CpuBackend::gemm_silu_mul(MatrixView<const bf16> x, const PackedView& w, MatrixView<bf16> y,
                               const float* bias) {
  check_shape("gemm_silu_mul", "y", y, x.rows, y.cols);
  NS_CHECK(w.n == gate_up_rows(y.cols),
           "kernels::gemm_silu_mul: W has {} rows, expected gate_up_rows({}) = {}", w.n, y.cols,
           gate_up_rows(y.cols));
  const std::array<std::int64_t, 2> bounds{0, w.k};
  GemmBlock block{};
  block.bounds = bounds.data();
  block.shards = 1;
  block.store = Store::silu_mul;
  block.y16 = y.data;
  block.y_stride = y.stride;
  block.bias = bias;
  product("kernels::gemm_silu_mul", x, w, block, y.cols, kPanel / 2);
}

void CpuBackend::add_tree(std::span<const MatrixView<const float>> parts, MatrixView<float> y) {
  NS_CHECK(!parts.empty() && parts.size() <= kMaxShards, "kernels::add_tree: {} parts, expected 1 to {}",
           parts.size(), kMaxShards);
  bool dense = y.stride == y.cols;
  for (const auto& part : parts) {
    check_shape("add_tree", "a part", part, y.rows, y.cols);
    dense = dense && part.stride == part.cols;
  }
  // Rows that lie back to back are one long row: many short ones cost no more than a few long ones.
  const std::int64_t rows = dense ? std::min<std::int64_t>(y.rows, 1) : y.rows;
  const std::int64_t cols = dense ? y.rows * y.cols : y.cols;
  const std::int64_t row_tiles = ceil_div(cols, kTreeColumns);
  const double cost =
      static_cast<double>(y.rows * y.cols) * static_cast<double>(parts.size() + 2) * kNanosecondsPerAddend;
  for_each_tile("kernels::add_tree", threads_, rows * row_tiles, cost, [&](int, std::int64_t tile) {
    const std::int64_t r = tile / row_tiles;
    const std::int64_t first = tile % row_tiles * kTreeColumns;
    std::array<const float*, kMaxShards> from;
    for (std::size_t i = 0; i < parts.size(); ++i) from[i] = parts[i].row(r) + first;
    kernels_.add_tree(from.data(), static_cast<int>(parts.size()), std::min(kTreeColumns, cols - first),
                      y.row(r) + first);
  });
}

}  // namespace nightshift::kernels
