// SPDX-License-Identifier: Apache-2.0
// Reductions over rows of logits, a block for each row. What they choose is a total order's first, so it does
// not depend on how threads share the row; sums have one order of addition.
#pragma once

#include "core/types.h"
#include "kernels/cuda/exp.cuh"
#include "kernels/cuda/lane.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/kernels.h"

namespace nightshift::kernels::cuda {

struct Candidate {
  float value;
  std::int32_t id;
};

// Descending by value, then ascending by id; NaN ranks below everything.
NS_DEVICE bool before(const Candidate& a, const Candidate& b) {
  const bool a_nan = !(a.value == a.value), b_nan = !(b.value == b.value);
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.value != b.value) return a.value > b.value;
  return a.id < b.id;
}

inline constexpr std::int32_t kNoId = 0x7fffffff;
NS_DEVICE Candidate no_candidate() {
  return {float_of(0x7fc00000U), kNoId};  // behind every NaN
}

// The first of all threads' candidates, in every thread. shared: [kRowThreads / 32] candidates
NS_DEVICE Candidate block_first(Candidate mine, Candidate* shared) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const Candidate other{from_lane_xor(mine.value, mask), from_lane_xor(mine.id, mask)};
    if (before(other, mine)) mine = other;
  }
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = mine;
  __syncthreads();
  Candidate first = shared[0];
  for (int w = 1; w < kRowThreads / kWarp; ++w) first = before(shared[w], first) ? shared[w] : first;
  __syncthreads();  // shared may be written again
  return first;
}

// ids, values [M]: a row without a number that is no NaN gives id 0 and -infinity, as on CPUs.
NS_KERNEL argmax_kernel(MatrixView<const float> x, TokenId* ids, float* values) {
  NS_DYNAMIC_SHARED(shared);
  const float* row = x.data + blockIdx.x * x.stride;
  Candidate best = no_candidate();
  for (std::int64_t c = threadIdx.x; c < x.cols; c += kRowThreads) {
    const Candidate candidate{row[c], static_cast<std::int32_t>(c)};
    if (before(candidate, best)) best = candidate;
  }
  best = block_first(best, reinterpret_cast<Candidate*>(shared));
  if (threadIdx.x != 0) return;
  const bool none = !(best.value == best.value);
  ids[blockIdx.x] = none ? 0 : best.id;
  values[blockIdx.x] = none ? float_of(0xff800000U) : best.value;
}

struct Bounds {
  std::int64_t at[kMostParts + 1];
};

// grid: (M, shards)
NS_KERNEL sum_exp_kernel(MatrixView<const float> x, const float* row_max, Bounds bounds,
                         MatrixView<float> sums) {
  NS_DYNAMIC_SHARED(shared);
  const float* row = x.data + blockIdx.x * x.stride;
  float total = 0.0F;
  for (std::int64_t c = bounds.at[blockIdx.y] + threadIdx.x; c < bounds.at[blockIdx.y + 1]; c += kRowThreads)
    total = sum(total, fixed_exp(difference(row[c], row_max[blockIdx.x])));
  total = block_sum(total, reinterpret_cast<float*>(shared));
  if (threadIdx.x == 0) sums.data[blockIdx.x * sums.stride + blockIdx.y] = total;
}

// The k first, one after the other: each round takes what comes right behind the last one taken. For small k.
NS_KERNEL top_k_kernel(MatrixView<const float> x, int k, MatrixView<TokenId> ids, MatrixView<float> values) {
  NS_DYNAMIC_SHARED(shared);
  const float* row = x.data + blockIdx.x * x.stride;
  Candidate last{0.0F, -1};
  for (int i = 0; i < k; ++i) {
    Candidate best = no_candidate();
    for (std::int64_t c = threadIdx.x; c < x.cols; c += kRowThreads) {
      const Candidate candidate{row[c], static_cast<std::int32_t>(c)};
      if ((i == 0 || before(last, candidate)) && before(candidate, best)) best = candidate;
    }
    last = block_first(best, reinterpret_cast<Candidate*>(shared));
    if (threadIdx.x == 0) {
      ids.data[blockIdx.x * ids.stride + i] = last.id;
      values.data[blockIdx.x * values.stride + i] = last.value;
    }
  }
}

}  // namespace nightshift::kernels::cuda
