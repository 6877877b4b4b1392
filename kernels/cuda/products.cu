// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/products.h"

#include <algorithm>
#include <array>
#include <bit>

#include "kernels/cuda/runtime.h"

namespace nightshift::kernels::cuda {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(fmt::format("cuBLASLt, {}: {}", what, cublasLtGetStatusString(status)),
              "the GPU or its driver may be too old for this build; run.device = \"cpu\" runs without it");
}

// As cuBLAS sees row-major matrices: their transposes. `rows` is the leading, contiguous direction.
struct Layout {
  cublasLtMatrixLayoutOpaque_t opaque{};

  Layout(cudaDataType_t type, std::int64_t rows, std::int64_t cols, std::int64_t stride, int count,
         std::int64_t step) {
    check(cublasLtMatrixLayoutInit(&opaque, type, static_cast<std::uint64_t>(rows),
                                   static_cast<std::uint64_t>(cols), stride),
          "matrix layout");
    if (count == 1) return;
    const std::int32_t batch = count;
    check(cublasLtMatrixLayoutSetAttribute(&opaque, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch),
          "matrix layout");
    check(cublasLtMatrixLayoutSetAttribute(&opaque, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step,
                                           sizeof step),
          "matrix layout");
  }
  cublasLtMatrixLayout_t get() { return &opaque; }
};

// y^T [N, M] = op(w^T)^T x^T: A = w as stored ([K, N] to cuBLAS, transposed), B = x ([K, M]).
struct Layouts {
  Layout a, b, d;

  Layouts(const ProductBatch& p, std::int64_t rows)
      : a(CUDA_R_16BF, p.x.cols, p.y.cols, p.w_stride, p.count, p.w_step),
        b(CUDA_R_16BF, p.x.cols, rows, p.x.stride, p.count, p.x_step),
        d(CUDA_R_32F, p.y.cols, rows, p.y.stride, p.count, p.y_step) {}
};

struct Description {
  cublasLtMatmulDescOpaque_t opaque{};

  Description() {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check(cublasLtMatmulDescInit(&opaque, CUBLAS_COMPUTE_32F, CUDA_R_32F), "product");
    check(
        cublasLtMatmulDescSetAttribute(&opaque, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
        "product");
  }
  cublasLtMatmulDesc_t get() { return &opaque; }
};

// What pointers and strides of A, B and D have in common, in bytes, at most kAligned: algorithms that move
// more at once are not asked for.
constexpr std::int64_t kAligned = 16;
std::int64_t alignment_of(const void* data, std::int64_t stride_bytes, std::int64_t step_bytes) {
  const auto bits = reinterpret_cast<std::uintptr_t>(data) | static_cast<std::uintptr_t>(stride_bytes) |
                    static_cast<std::uintptr_t>(step_bytes) | static_cast<std::uintptr_t>(kAligned);
  return std::int64_t{1} << std::countr_zero(bits);
}

// y lies in scratch memory where its matrices follow one another, M rows each: their addresses have no less
// in common than their strides, so this does not depend on M.
std::int64_t alignment_of(const ProductBatch& p) {
  return std::min({alignment_of(p.x.data, 2 * p.x.stride, 2 * p.x_step),
                   alignment_of(p.w, 2 * p.w_stride, 2 * p.w_step),
                   alignment_of(p.y.data, 4 * p.y.stride, 0)});
}

struct Preference {
  cublasLtMatmulPreferenceOpaque_t opaque{};

  explicit Preference(std::int64_t alignment) {
    const std::uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    const std::size_t workspace = kWorkspaceBytes;
    const auto bytes = static_cast<std::uint32_t>(alignment);
    check(cublasLtMatmulPreferenceInit(&opaque), "preference");
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, no_split);
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
    for (const auto matrix :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(matrix, bytes);
  }

 private:
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t what, const T& value) {
    check(cublasLtMatmulPreferenceSetAttribute(&opaque, what, &value, sizeof value), "preference");
  }
};

// A product of the depth and alignment of `p`, but of one width, dense and alone: what strict algorithms are
// chosen for.
ProductBatch usual_product(const ProductBatch& p) {
  constexpr std::int64_t kUsualWidth = 4096;
  const std::int64_t depth = p.x.cols, stride = (depth + 7) / 8 * 8;
  ProductBatch usual;
  usual.x = {nullptr, 0, depth, stride};
  usual.w_stride = stride;
  usual.y = {nullptr, 0, kUsualWidth, kUsualWidth};
  return usual;
}

}  // namespace

Products::Products(cudaStream_t stream, bool strict) : stream_(stream), strict_(strict) {
  check(cublasLtCreate(&handle_), "start");
  cuda::check(cudaMalloc(&workspace_, kWorkspaceBytes), "cuBLASLt's workspace (32 MiB)");
}

Products::~Products() {
  cudaFree(workspace_);
  cublasLtDestroy(handle_);
}

std::vector<Products::Algorithm> Products::candidates(const ProductBatch& batch, std::int64_t rows,
                                                      std::int64_t alignment) {
  constexpr int kMost = 16;
  Description description;
  Preference preference(alignment);
  Layouts layouts(batch, rows);
  std::array<cublasLtMatmulHeuristicResult_t, kMost> results{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, description.get(), layouts.a.get(), layouts.b.get(), layouts.d.get(), layouts.d.get(),
      &preference.opaque, kMost, results.data(), &found);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "choice of an algorithm");
  std::vector<Algorithm> algorithms;
  for (int i = 0; i < found; ++i) algorithms.push_back({results[static_cast<std::size_t>(i)].algo});
  return algorithms;
}

// Whether the algorithm may be used for this many rows of x.
bool Products::takes(const Algorithm& algorithm, const ProductBatch& batch, std::int64_t rows) {
  Description description;
  Layouts layouts(batch, rows);
  cublasLtMatmulHeuristicResult_t result{};
  return cublasLtMatmulAlgoCheck(handle_, description.get(), layouts.a.get(), layouts.b.get(),
                                 layouts.d.get(), layouts.d.get(), &algorithm.chosen,
                                 &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= kWorkspaceBytes;
}

Products::Algorithm Products::first_legal(std::span<const Algorithm> algorithms, const ProductBatch& batch,
                                          std::span<const std::int64_t> rows) {
  for (const Algorithm& algorithm : algorithms)
    if (std::all_of(rows.begin(), rows.end(), [&](std::int64_t m) { return takes(algorithm, batch, m); }))
      return algorithm;
  throw Error(fmt::format("cuBLASLt has no algorithm for products of {} x {} that needs no split of K",
                          batch.y.cols, batch.x.cols),
              "run.device = \"cpu\" runs without it");
}

const Products::Algorithm& Products::algorithm_for(const ProductBatch& batch) {
  const auto wide = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(batch.x.rows)));
  const std::int64_t alignment = alignment_of(batch);
  const Key key{strict_ ? 0 : wide, batch.y.cols, batch.x.cols,   batch.x.stride,
                batch.w_stride,     batch.count,  batch.y.stride, alignment};
  if (const auto known = chosen_.find(key); known != chosen_.end()) return known->second;
  if (!strict_) {
    const std::array<std::int64_t, 2> rows{wide / 2 + 1, wide};
    return chosen_[key] = first_legal(candidates(batch, wide, alignment), batch, rows);
  }
  constexpr std::array<std::int64_t, 4> kRows{1, 16, 1024, 4096};
  auto& usual = strict_candidates_[{batch.x.cols, alignment}];
  if (usual.empty()) usual = candidates(usual_product(batch), 1024, alignment);
  return chosen_[key] = first_legal(usual, batch, kRows);
}

void Products::run(const ProductBatch& batch) {
  if (batch.x.rows == 0 || batch.y.cols == 0 || batch.count == 0) return;
  const Algorithm& algorithm = algorithm_for(batch);
  Description description;
  Layouts layouts(batch, batch.x.rows);
  const float one = 1.0F, old = batch.accumulate ? 1.0F : 0.0F;
  check(cublasLtMatmul(handle_, description.get(), &one, batch.w, layouts.a.get(), batch.x.data,
                       layouts.b.get(), &old, batch.y.data, layouts.d.get(), batch.y.data, layouts.d.get(),
                       &algorithm.chosen, workspace_, kWorkspaceBytes, stream_),
        "product");
}

}  // namespace nightshift::kernels::cuda
