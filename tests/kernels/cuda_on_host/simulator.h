// SPDX-License-Identifier: Apache-2.0
// Runs CUDA kernels on the host, one block at a time, each thread of it a coroutine. Threads run until they
// need others: at a barrier, a shuffle, a tensor-core product. In between, the order is the simulator's
// choice (set_order, or NIGHTSHIFT_SIMULATED_ORDER for a whole run): between two barriers a warp runs ahead
// of the others as far as it can, so that a kernel that lacks a barrier gives other results in another order;
// so is the order of blocks. Shared memory starts as NaNs; asynchronous copies arrive at the wait and not
// before; threads that wait for one another for ever are an Error. Kernels see the names of
// kernels/cuda/lane.cuh.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace nightshift::simulated {

// Of the thread that runs; set by the simulator whenever it goes from one to another.
inline dim3 thread_index, block_index, block_size, grid_size;

enum class Order : std::uint8_t { ascending, descending, shuffled };
void set_order(Order order, std::uint64_t seed = 1);  // of threads and of blocks

// Every block of the grid, one after the other. Throws Error when threads wait for ever.
void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& thread);

// Runs `work` now or, between begin_capture() and end_capture(), keeps it for later: what a stream does.
void submit(std::function<void()> work);
void begin_capture();
std::vector<std::function<void()>> end_capture();
bool capturing();

// The one stream. Its door to submit() is a pointer, so that libraries beside this one can use it too.
struct Stream {
  void (*submit)(std::function<void()> work);
};
Stream* the_stream();

unsigned char* dynamic_shared();
// Bytes that a block may have: Hopper's, or NIGHTSHIFT_SIMULATED_SHARED.
std::size_t most_shared();
void meet_block();

// All lanes of the warp put in `bytes` (at most 32) and get everybody's: 32 slots of 32 bytes, valid until
// the next meeting.
inline constexpr int kSlot = 32;
const unsigned char* meet_warp(const void* mine, std::size_t bytes);

void copy_async(void* shared, const void* global, bool valid);
void commit_copies();
void wait_for_copies(int pending);

}  // namespace nightshift::simulated

#define threadIdx nightshift::simulated::thread_index
#define blockIdx nightshift::simulated::block_index
#define blockDim nightshift::simulated::block_size
#define gridDim nightshift::simulated::grid_size

inline void __syncthreads() {
  nightshift::simulated::meet_block();
}

namespace nightshift::kernels::cuda {

inline float product(float a, float b) {
  return a * b;
}
inline float sum(float a, float b) {
  return a + b;
}
inline float difference(float a, float b) {
  return a - b;
}
inline float fused(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float quotient(float a, float b) {
  return a / b;
}
inline float square_root(float a) {
  return std::sqrt(a);
}
inline double product(double a, double b) {
  return a * b;
}
inline double sum(double a, double b) {
  return a + b;
}
inline double difference(double a, double b) {
  return a - b;
}
inline double quotient(double a, double b) {
  return a / b;
}
inline float rounded(double a) {
  return static_cast<float>(a);
}
inline double next_above(double a) {
  return std::bit_cast<double>(std::bit_cast<std::int64_t>(a) + 1);
}
inline std::uint32_t bits_of(float a) {
  return std::bit_cast<std::uint32_t>(a);
}
inline float float_of(std::uint32_t a) {
  return std::bit_cast<float>(a);
}

template <class T>
T from_lane(T value, int lane) {
  const unsigned char* all = simulated::meet_warp(&value, sizeof value);
  T other;
  std::memcpy(&other, all + (lane & 31) * simulated::kSlot, sizeof other);
  return other;
}
template <class T>
T from_lane_xor(T value, int mask) {
  return from_lane(value, static_cast<int>(threadIdx.x % 32) ^ mask);
}

inline std::uint32_t count_up(std::uint32_t* counter, std::uint32_t by) {
  const std::uint32_t before = *counter;
  *counter += by;
  return before;
}

inline void copy_async(void* shared, const void* global, bool valid) {
  simulated::copy_async(shared, global, valid);
}
inline void copy_async_commit() {
  simulated::commit_copies();
}
template <int kPending>
void copy_async_wait() {
  simulated::wait_for_copies(kPending);
}

void load_matrices(std::uint32_t (&r)[4], const void* row);
void load_matrices_transposed(std::uint32_t (&r)[4], const void* row);
void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);

}  // namespace nightshift::kernels::cuda
