// SPDX-License-Identifier: Apache-2.0
// The AVX512-BF16 kernel set (Zen 4 and later, Cooper Lake, Sapphire Rapids and later). Its files alone are
// compiled for these instructions (room.cmake) and reached only through avx512_kernels() after a check of the
// CPU.
#pragma once

#include "kernels/cpu_kernels.h"

namespace nightshift::kernels::avx512 {

void gemm(const GemmBlock& b);
void pack(const PackBlock& b);
void rope(const RopeRow& r);
void append(const AppendRow& a);
void attention(const AttentionBlock& b);
void rms_norm(const float* x, const float* weight, float eps, std::int64_t n, bf16* y);
void silu_mul(const float* gate, const float* up, std::int64_t n, bf16* y);
void add(const float* x, std::int64_t n, float* y);
void add_tree(const float* const* parts, int count, std::int64_t n, float* y);
void to_bf16(const float* x, std::int64_t n, bf16* y);
void argmax(const float* x, std::int64_t n, std::int32_t* id, float* value);
float sum_exp(const float* x, std::int64_t n, float maximum);
std::int64_t collect(const float* x, std::int64_t n, float threshold, std::int32_t* indices);
double multiply(std::int64_t iterations);
std::uint64_t read(const void* data, std::int64_t bytes);

}  // namespace nightshift::kernels::avx512
