// SPDX-License-Identifier: Apache-2.0
// The table of the AVX512-BF16 set. Compiled without its flags: this file runs on every CPU.
#include "kernels/avx512.h"

namespace nightshift::kernels {

#ifdef NIGHTSHIFT_BUILD_AVX512
const CpuKernels* avx512_kernels() {
  static constexpr CpuKernels kernels{"avx512_bf16",   avx512::gemm,      avx512::pack,     avx512::rope,
                                      avx512::append,  avx512::attention, avx512::rms_norm, avx512::silu_mul,
                                      avx512::add,     avx512::add_tree,  avx512::to_bf16,  avx512::argmax,
                                      avx512::sum_exp, avx512::collect,   avx512::multiply, avx512::read};
  return &kernels;
}
#else
const CpuKernels* avx512_kernels() {
  return nullptr;
}
#endif

}  // namespace nightshift::kernels
