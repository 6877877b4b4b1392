// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLASLt.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "kernels/kernels.h"

namespace nightshift::kernels::cuda {

// y_i [M, N] = x_i w_i^T for i < count, all of one shape, matrices of the batch a fixed distance apart.
struct ProductBatch {
  MatrixView<const bf16> x;  // of i = 0
  const bf16* w = nullptr;   // [N, K], rows `w_stride` elements apart
  std::int64_t w_stride = 0;
  MatrixView<float> y;
  int count = 1;
  std::int64_t x_step = 0, w_step = 0, y_step = 0;  // elements from matrix to matrix
  bool accumulate = false;                          // y_i += x_i w_i^T
};

// Chooses an algorithm once for each shape and keeps to it: no split of K (cuBLAS 12 and 13 can lose its
// tail, and the order of addition would depend on M), 32 MiB of workspace (what Hopper's kernels ask for).
//
// strict: one algorithm for a depth K, whatever the rows, the width and the number of matrices, so that the
// walk over K, and with it a row's bits, depends neither on its company nor on how ranks share a weight.
// (Shapes that it is not legal for take the next one of the same list; alignment is part of the depth.)
// Otherwise the best one for each shape and power of two of rows.
class Products {
 public:
  struct Algorithm {  // nvcc 13.0 cannot keep cuBLASLt's own, which has no name, in a vector
    cublasLtMatmulAlgo_t chosen{};
  };
  Products(cudaStream_t stream, bool strict);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  void run(const ProductBatch& batch);

 private:
  using Key = std::array<std::int64_t, 8>;
  const Algorithm& algorithm_for(const ProductBatch& batch);
  std::vector<Algorithm> candidates(const ProductBatch& batch, std::int64_t rows, std::int64_t alignment);
  bool takes(const Algorithm& algorithm, const ProductBatch& batch, std::int64_t rows);
  Algorithm first_legal(std::span<const Algorithm> algorithms, const ProductBatch& batch,
                        std::span<const std::int64_t> rows);

  cudaStream_t stream_;
  bool strict_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, Algorithm> chosen_;
  std::map<std::array<std::int64_t, 2>, std::vector<Algorithm>> strict_candidates_;  // by K, alignment
};

}  // namespace nightshift::kernels::cuda
