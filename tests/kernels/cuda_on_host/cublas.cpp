// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/types.h"

using nightshift::bf16;

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS         ? "success"
         : status == CUBLAS_STATUS_INVALID_VALUE ? "invalid value"
                                                 : "not supported";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new int(1);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type,
                                        std::uint64_t rows, std::uint64_t cols, std::int64_t stride) {
  *layout = {type, rows, cols, stride, 1, 0};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t what, const void* value,
                                                std::size_t bytes) {
  const bool count = what == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
  if (bytes != (count ? sizeof layout->count : sizeof layout->step)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(count ? static_cast<void*>(&layout->count) : &layout->step, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t description, cublasComputeType_t,
                                      cudaDataType_t scale) {
  *description = {CUBLAS_OP_N, CUBLAS_OP_N};
  return scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t what, const void* value,
                                              std::size_t bytes) {
  if (bytes != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(what == CUBLASLT_MATMUL_DESC_TRANSA ? &description->a : &description->b, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
  *preference = {~std::uint32_t{0}, 256, 0};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void* value, std::size_t bytes) {
  const auto set = [&](auto& field) {
    if (bytes != sizeof field) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return set(preference->workspace);
  if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) return set(preference->reductions);
  return set(preference->alignment);  // callers here give all four the same
}

namespace {

// D [m, n] = A^T [m, k] B [k, n], column-major.
bool fits(const cublasLtMatmulDescOpaque_t& description, const cublasLtMatrixLayoutOpaque_t& a,
          const cublasLtMatrixLayoutOpaque_t& b, const cublasLtMatrixLayoutOpaque_t& d) {
  const auto dense = [](const cublasLtMatrixLayoutOpaque_t& m) {
    return m.rows > 0 && m.cols > 0 && m.stride >= static_cast<std::int64_t>(m.rows);
  };
  return description.a == CUBLAS_OP_T && description.b == CUBLAS_OP_N && a.rows == b.rows &&
         a.cols == d.rows && b.cols == d.cols && a.count == b.count && b.count == d.count && dense(a) &&
         dense(b) && dense(d) && a.type == CUDA_R_16BF && b.type == CUDA_R_16BF && d.type == CUDA_R_32F;
}

}  // namespace

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = 0;
  if (!fits(*description, *a, *b, *d) || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (preference->reductions != CUBLASLT_REDUCTION_SCHEME_NONE) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {{a->rows, preference->alignment}, 0};
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  if (!fits(*description, *a, *b, *d) || algorithm->chosen_for != a->rows) return CUBLAS_STATUS_INVALID_VALUE;
  *result = {*algorithm, 0};
  return CUBLAS_STATUS_SUCCESS;
}

namespace {

// What the algorithm was told of pointers and strides.
bool aligned(const void* data, const cublasLtMatrixLayoutOpaque_t& m, std::uint32_t alignment) {
  const std::int64_t element = m.type == CUDA_R_32F ? 4 : 2;
  const std::int64_t step = m.count > 1 ? m.step : 0;
  const auto bits = reinterpret_cast<std::uintptr_t>(data) | static_cast<std::uintptr_t>(element * m.stride) |
                    static_cast<std::uintptr_t>(element * step);
  return bits % alignment == 0;
}

// Sixteen rows of A at once, each with one chain of additions in the order of K: products of two bf16 are
// exact in fp32, so it does not matter whether they are fused.
void multiply_matrix(const bf16* a_data, const cublasLtMatrixLayoutOpaque_t& a, const bf16* b_data,
                     const cublasLtMatrixLayoutOpaque_t& b, float* d_data,
                     const cublasLtMatrixLayoutOpaque_t& d, bool add) {
  constexpr std::int64_t kWide = 16;
  typedef float Lanes __attribute__((vector_size(kWide * sizeof(float))));
  const auto depth = static_cast<std::int64_t>(a.rows), rows = static_cast<std::int64_t>(d.rows);
  std::vector<Lanes> panel(static_cast<std::size_t>(depth));
  for (std::int64_t first = 0; first < rows; first += kWide) {
    const std::int64_t count = std::min(kWide, rows - first);
    for (std::int64_t k = 0; k < depth; ++k)
      for (std::int64_t m = 0; m < count; ++m)
        panel[static_cast<std::size_t>(k)][m] = static_cast<float>(a_data[(first + m) * a.stride + k]);
    for (std::int64_t n = 0; n < static_cast<std::int64_t>(d.cols); ++n) {
      const bf16* x = b_data + n * b.stride;
      Lanes sums = {};
      for (std::int64_t k = 0; k < depth; ++k)
        sums += panel[static_cast<std::size_t>(k)] * static_cast<float>(x[k]);
      float* out = d_data + n * d.stride + first;
      for (std::int64_t m = 0; m < count; ++m) out[m] = add ? out[m] + sums[m] : sums[m];
    }
  }
}

}  // namespace

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a_data, cublasLtMatrixLayout_t a, const void* b_data,
                              cublasLtMatrixLayout_t b, const void* beta, const void* c_data,
                              cublasLtMatrixLayout_t, void* d_data, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, std::size_t,
                              cudaStream_t) {
  if (handle == nullptr || workspace == nullptr || !fits(*description, *a, *b, *d) ||
      algorithm->chosen_for != a->rows)
    return CUBLAS_STATUS_INVALID_VALUE;
  const std::uint32_t alignment = algorithm->alignment;
  if (!aligned(a_data, *a, alignment) || !aligned(b_data, *b, alignment) || !aligned(d_data, *d, alignment))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  using namespace nightshift;
  const float old = *static_cast<const float*>(beta);
  if (*static_cast<const float*>(alpha) != 1.0F || (old != 0.0F && old != 1.0F) || c_data != d_data)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  simulated::submit([a = *a, b = *b, d = *d, a_data, b_data, d_data, old] {
    for (std::int64_t i = 0; i < a.count; ++i) {
      multiply_matrix(static_cast<const bf16*>(a_data) + i * a.step, a,
                      static_cast<const bf16*>(b_data) + i * b.step, b,
                      static_cast<float*>(d_data) + i * d.step, d, old != 0.0F);
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}
