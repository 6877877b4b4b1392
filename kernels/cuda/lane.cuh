// SPDX-License-Identifier: Apache-2.0
// What a kernel may do besides plain C++: barriers, shuffles, asynchronous copies into shared memory,
// tensor-core products. On a GPU each is one or two instructions; tests compile the same kernels for the
// host, where tests/kernels/cuda_on_host runs a block's threads as coroutines and these as meetings between
// them.
//
// Kernels are templates or inline functions marked NS_KERNEL, or NS_KERNEL_OF(most threads of a block) where
// that bounds their registers; they take plain structs, and index with threadIdx and blockIdx. They never
// call libm and never leave a choice of fused operations to the compiler: fused() is one rounding, product(),
// sum() and difference() are one each, so that bits do not depend on the optimiser.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define NS_KERNEL __global__ void
#define NS_KERNEL_OF(threads) __global__ void __launch_bounds__(threads)
#define NS_DEVICE __device__ __forceinline__
#define NS_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#else
#include "cuda_on_host/simulator.h"
#define NS_KERNEL inline void
#define NS_KERNEL_OF(threads) inline void
#define NS_DEVICE inline
#define NS_DYNAMIC_SHARED(name) unsigned char* const name = nightshift::simulated::dynamic_shared()
#endif

namespace nightshift::kernels::cuda {

#if defined(__CUDACC__)
inline constexpr bool kSimulated = false;
#else
inline constexpr bool kSimulated = true;
#endif
inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

// 16 bytes, moved in one instruction.
struct alignas(16) Vec16 {
  std::uint32_t w[4];
};

#if defined(__CUDACC__)

NS_DEVICE float product(float a, float b) {
  return __fmul_rn(a, b);
}
NS_DEVICE float sum(float a, float b) {
  return __fadd_rn(a, b);
}
NS_DEVICE float difference(float a, float b) {
  return __fsub_rn(a, b);
}
NS_DEVICE float fused(float a, float b, float c) {  // a b + c
  return __fmaf_rn(a, b, c);
}
NS_DEVICE float quotient(float a, float b) {
  return __fdiv_rn(a, b);
}
NS_DEVICE float square_root(float a) {
  return __fsqrt_rn(a);
}
NS_DEVICE double product(double a, double b) {
  return __dmul_rn(a, b);
}
NS_DEVICE double sum(double a, double b) {
  return __dadd_rn(a, b);
}
NS_DEVICE double difference(double a, double b) {
  return __dsub_rn(a, b);
}
NS_DEVICE double quotient(double a, double b) {
  return __ddiv_rn(a, b);
}
NS_DEVICE float rounded(double a) {
  return __double2float_rn(a);
}
NS_DEVICE double next_above(double a) {  // a >= 0
  return __longlong_as_double(__double_as_longlong(a) + 1);
}
NS_DEVICE std::uint32_t bits_of(float a) {
  return __float_as_uint(a);
}
NS_DEVICE float float_of(std::uint32_t a) {
  return __uint_as_float(a);
}
template <class T>
NS_DEVICE T from_lane_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
template <class T>
NS_DEVICE T from_lane(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}

// Adds to a counter in shared memory that other threads add to as well; what it was.
NS_DEVICE std::uint32_t count_up(std::uint32_t* counter, std::uint32_t by) {
  return atomicAdd(counter, by);
}

NS_DEVICE std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// 16 bytes from global to shared memory, in the background; zeros where `valid` is false.
NS_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes));
}
NS_DEVICE void copy_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::);
}
// Until at most `kPending` of this thread's youngest groups are under way. Others' copies: a barrier later.
template <int kPending>
NS_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending));
}

// Four 8 x 8 matrices of 16-bit elements: lane i names row i % 8 of matrix i / 8; r[m] is this lane's pair of
// matrix m: row lane / 4, columns 2 (lane % 4) and the next.
NS_DEVICE void load_matrices(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}
// The same of the transposed matrices.
NS_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}

// d [16, 8] += a [16, 16] b [16, 8], bf16 products, fp32 sums. With g = lane / 4, c = 2 (lane % 4):
// a[0] (g, c..), a[1] (g + 8, c..), a[2] (g, c + 8..), a[3] (g + 8, c + 8..); b[0] (c.., g), b[1] (c + 8..,
// g); d[0], d[1] (g, c..), d[2], d[3] (g + 8, c..).
NS_DEVICE void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

// bf16 pairs, the first in the low half, rounded to nearest even; NaN stays NaN.
NS_DEVICE std::uint32_t bf16_bits(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return (bits >> 16) | 0x40U;
  return (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
}
NS_DEVICE std::uint32_t pair_of(float first, float second) {
  return bf16_bits(first) | (bf16_bits(second) << 16);
}
NS_DEVICE float first_of(std::uint32_t pair) {
  return float_of(pair << 16);
}
NS_DEVICE float second_of(std::uint32_t pair) {
  return float_of(pair & 0xffff0000U);
}

}  // namespace nightshift::kernels::cuda
