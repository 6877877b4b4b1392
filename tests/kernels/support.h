// SPDX-License-Identifier: Apache-2.0
// What kernel tests share: random inputs, comparisons, one fixture that runs a test on every kernel set.
#pragma once

#include <gtest/gtest.h>
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/memory.h"

namespace nightshift::kernels::test {

// A matrix that tests fill and read, and kernels too.
template <class T>
struct Host {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  Vector<T> data;

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

// A backend whose every call is finished when its statement is, so that tests read results at once: the arrow
// gives a Call, which lives until then and waits. (Stroustrup, "Wrapping C++ Member Function Calls", 2000.)
class Waiting {
 public:
  class Call {
   public:
    explicit Call(Backend& backend) : backend_(backend) {}
    ~Call() noexcept(false) {
      if (std::uncaught_exceptions() == before_) backend_.synchronize();
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    Backend* operator->() const { return &backend_; }

   private:
    Backend& backend_;
    int before_ = std::uncaught_exceptions();
  };

  explicit Waiting(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}
  Call operator->() const { return Call(*backend_); }

 private:
  std::unique_ptr<Backend> backend_;
};

inline PackedMatrix packed(const Waiting& backend, const Host<bf16>& w) {
  PackedMatrix p = backend->make_packed(w.rows, w.cols);
  backend->pack_rows(p, 0, w.view());
  return p;
}

template <class T>
bool same_bits(const T* a, const T* b, std::int64_t n) {
  return std::memcmp(a, b, n * sizeof(T)) == 0;
}
template <class A, class B>
::testing::AssertionResult same_bits(const A& a, const B& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " elements against " << b.size();
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof a[i]) != 0) {
      return ::testing::AssertionFailure() << "first difference at " << i << ": " << static_cast<float>(a[i])
                                           << " against " << static_cast<float>(b[i]);
    }
  }
  return ::testing::AssertionSuccess();
}

// A copy that ends where the readable memory ends.
template <class T>
class Guarded {
 public:
  template <class Elements>
  explicit Guarded(const Elements& elements) : memory_(elements.size() * sizeof(T)) {
    std::copy(elements.begin(), elements.end(), data());
  }
  T* data() const { return reinterpret_cast<T*>(memory_.data()); }

 private:
  GuardedMemory memory_;
};

inline double value(bf16 x) {
  return static_cast<double>(static_cast<float>(x));
}
inline double value(double x) {
  return x;
}

// || a - reference || / || reference ||; NaN anywhere gives NaN, which no bound accepts.
template <class A, class Reference>
double relative_error(const A& a, const Reference& reference) {
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double expected = value(reference[i]);
    const double difference = value(a[i]) - expected;
    error += difference * difference;
    norm += expected * expected;
  }
  return std::sqrt(error / norm);
}

// Rounding to bf16 (8 bits of precision, nearest) is off by 2^-9 of the value at most, about 0.42 of that in
// the mean square over a binade.
inline constexpr double kBf16Rounding = 0.0017;
// fp32 chains over K <= 4096 terms of either sign: rounding errors of 2^-24 each, growing like their square
// root.
inline constexpr double kFp32Chain = 2e-6;

class EveryKernelSet : public ::testing::TestWithParam<std::string> {
 protected:
  Waiting make(int threads = 2) const { return make(GetParam(), threads); }
  static Waiting make(const std::string& kernels, int threads) {
    BackendOptions options;
    options.kernels = kernels;
    options.threads = threads;
    return Waiting(make_backend(options));
  }

  bool on_gpu() const { return GetParam().starts_with("cuda"); }
  // The fast set chooses an order of additions by the number of rows. All others promise one for all calls.
  bool strict() const { return GetParam() != "cuda_fast"; }
  // A simulated GPU runs at some ten thousandths of a GPU's speed. Tests leave sizes out there that do not
  // lead a kernel to other lines of its code; CPUs and GPUs run them all.
  bool slow() const { return on_gpu() && simulated_gpu(); }

  // What strict sets give bit by bit, within rounding elsewhere.
  template <class A, class B>
  ::testing::AssertionResult alike(const A& a, const B& b, double tolerance = kFp32Chain) const {
    if (strict()) return same_bits(a, b);
    const double error = relative_error(a, b);
    if (a.size() == b.size() && (a.empty() || error < tolerance)) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "relative error " << error;
  }
  template <class T>
  ::testing::AssertionResult alike_rows(const T* a, const T* b, std::int64_t n) const {
    return alike(std::span(a, n), std::span(b, n));
  }

  Waiting backend_ = make();
};

}  // namespace nightshift::kernels::test
