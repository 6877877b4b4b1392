// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/products.h"

#include <algorithm>
#include <bit>

#include "kernels/cuda/runtime.h"

namespace nightshift::kernels::cuda {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;
constexpr std::int64_t kStrictRows = 1024;  // the number of rows that a weight's one algorithm is chosen for

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

struct Preference {
  cublasLtMatmulPreferenceOpaque_t opaque{};

  Preference() {
    const std::uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    const std::size_t workspace = kWorkspaceBytes;
    check(cublasLtMatmulPreferenceInit(&opaque), "preference");
    check(cublasLtMatmulPreferenceSetAttribute(&opaque, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split,
                                               sizeof no_split),
          "preference");
    check(cublasLtMatmulPreferenceSetAttribute(&opaque, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                               sizeof workspace),
          "preference");
  }
};

// Alignment that the heuristic may count on is part of the shape: a shard's view may start at any element.
std::int64_t alignment_of(const void* data) {
  return std::min<std::int64_t>(16,
                                std::int64_t{1} << std::countr_zero(reinterpret_cast<std::uintptr_t>(data)));
}

}  // namespace

struct Products::Plan {
  cublasLtMatmulAlgo_t algorithm{};
};

Products::Products(cudaStream_t stream, bool strict) : stream_(stream), strict_(strict) {
  check(cublasLtCreate(&handle_), "start");
  cuda::check(cudaMalloc(&workspace_, kWorkspaceBytes), "cuBLASLt's workspace (32 MiB)");
}

Products::~Products() {
  cudaFree(workspace_);
  cublasLtDestroy(handle_);
}

std::unique_ptr<Products::Plan> Products::choose(const ProductBatch& batch, std::int64_t rows) {
  Description description;
  Preference preference;
  Layouts layouts(batch, rows);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, description.get(), layouts.a.get(), layouts.b.get(), layouts.d.get(), layouts.d.get(),
      &preference.opaque, 1, &result, &found);
  if (status == CUBLAS_STATUS_SUCCESS && found == 0)
    throw Error(fmt::format("cuBLASLt has no algorithm for {} x {} x {} without a split of K", rows,
                            batch.y.cols, batch.x.cols),
                "run.device = \"cpu\" runs without it");
  check(status, "choice of an algorithm");
  auto plan = std::make_unique<Plan>();
  plan->algorithm = result.algo;
  return plan;
}

const Products::Plan& Products::plan_for(const ProductBatch& batch) {
  const std::int64_t rows =
      strict_ ? kStrictRows
              : static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(batch.x.rows)));
  const std::int64_t alignment =
      std::min({alignment_of(batch.x.data), alignment_of(batch.w), alignment_of(batch.y.data)});
  const Key key{rows, batch.y.cols, batch.x.cols, batch.w_stride, batch.count, batch.y.stride, alignment};
  auto& plan = plans_[key];
  if (!plan) plan = choose(batch, rows);
  return *plan;
}

void Products::run(const ProductBatch& batch) {
  if (batch.x.rows == 0 || batch.y.cols == 0 || batch.count == 0) return;
  const Plan& plan = plan_for(batch);
  Description description;
  Layouts layouts(batch, batch.x.rows);
  const float one = 1.0F, old = batch.accumulate ? 1.0F : 0.0F;
  check(cublasLtMatmul(handle_, description.get(), &one, batch.w, layouts.a.get(), batch.x.data,
                       layouts.b.get(), &old, batch.y.data, layouts.d.get(), batch.y.data, layouts.d.get(),
                       &plan.algorithm, workspace_, kWorkspaceBytes, stream_),
        "product");
}

}  // namespace nightshift::kernels::cuda
