// SPDX-License-Identifier: Apache-2.0
// What kernel tests share: random inputs, comparisons, one fixture that runs a test on every kernel set.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace nightshift::kernels::test {

// A host matrix; on CPU backends its memory is device memory.
template <class T>
struct Host {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<T> data;

  Host() = default;
  Host(std::int64_t rows_, std::int64_t cols_, T fill = T{})
      : rows(rows_), cols(cols_), data(rows_ * cols_, fill) {}
  MatrixView<T> view() { return {data.data(), rows, cols}; }
  MatrixView<const T> view() const { return {data.data(), rows, cols}; }
  T& operator()(std::int64_t r, std::int64_t c) { return data[r * cols + c]; }
  const T& operator()(std::int64_t r, std::int64_t c) const { return data[r * cols + c]; }
  MatrixView<const T> row(std::int64_t r, std::int64_t count = 1) const {
    return {data.data() + r * cols, count, cols};
  }
};

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline const bf16 kPoison = bf16(kNaN);  // outputs start as this, so an element that nobody wrote shows

inline Host<float> random_floats(std::int64_t rows, std::int64_t cols, unsigned seed, float sigma = 1.0F) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0F, sigma);
  Host<float> m(rows, cols);
  for (float& x : m.data) x = normal(generator);
  return m;
}

inline Host<bf16> random_bf16(std::int64_t rows, std::int64_t cols, unsigned seed, float sigma = 1.0F) {
  const Host<float> f = random_floats(rows, cols, seed, sigma);
  Host<bf16> m(rows, cols);
  for (std::size_t i = 0; i < f.data.size(); ++i) m.data[i] = bf16(f.data[i]);
  return m;
}

inline PackedMatrix packed(Backend& backend, const Host<bf16>& w) {
  PackedMatrix p = backend.make_packed(w.rows, w.cols);
  backend.pack_rows(p, 0, w.view());
  return p;
}

template <class T>
bool same_bits(const T* a, const T* b, std::int64_t n) {
  return std::memcmp(a, b, n * sizeof(T)) == 0;
}
template <class T>
::testing::AssertionResult same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " elements against " << b.size();
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) {
      return ::testing::AssertionFailure() << "first difference at " << i << ": " << static_cast<float>(a[i])
                                           << " against " << static_cast<float>(b[i]);
    }
  }
  return ::testing::AssertionSuccess();
}

// A copy that ends where the readable memory ends: a kernel that reads one element too many crashes.
template <class T>
class Guarded {
 public:
  explicit Guarded(const std::vector<T>& data) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t used = (data.size() * sizeof(T) + page - 1) / page * page;
    bytes_ = used + page;
    base_ = static_cast<std::byte*>(
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(base_ + used, page, PROT_NONE);
    data_ = reinterpret_cast<T*>(base_ + used) - data.size();
    std::copy(data.begin(), data.end(), data_);
  }
  ~Guarded() { ::munmap(base_, bytes_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  T* data() const { return data_; }

 private:
  std::byte* base_;
  std::size_t bytes_;
  T* data_;
};

// || a - reference || / || reference ||; NaN anywhere gives NaN, which no bound accepts.
template <class T>
double relative_error(const std::vector<T>& a, const std::vector<double>& reference) {
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double difference = static_cast<double>(static_cast<float>(a[i])) - reference[i];
    error += difference * difference;
    norm += reference[i] * reference[i];
  }
  return std::sqrt(error / norm);
}

inline double value(bf16 x) {
  return static_cast<double>(static_cast<float>(x));
}

// Rounding to bf16 (8 bits of precision, nearest) is off by 2^-9 of the value at most, about 0.42 of that in
// the mean square over a binade.
inline constexpr double kBf16Rounding = 0.0017;

class EveryKernelSet : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> make(int threads = 2) const {
    BackendOptions options;
    options.kernels = GetParam();
    options.threads = threads;
    return make_backend(options);
  }
  std::unique_ptr<Backend> backend_ = make();
};

}  // namespace nightshift::kernels::test
