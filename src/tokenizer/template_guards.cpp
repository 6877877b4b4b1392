// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/template_guards.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace template_guards {
namespace {

thread_local std::size_t left = std::numeric_limits<std::size_t>::max();

[[noreturn]] void too_large() {
  throw std::runtime_error("a whole number beyond 64 bits");
}

void check_division(std::int64_t a, std::int64_t b) {
  if (b == 0) throw std::runtime_error("division by zero");
  if (b == -1 && a == std::numeric_limits<std::int64_t>::min()) too_large();
}

}  // namespace

std::int64_t negative(std::int64_t a) {
  return difference(0, a);
}

std::int64_t sum(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) too_large();
  return result;
}

std::int64_t difference(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (__builtin_sub_overflow(a, b, &result)) too_large();
  return result;
}

std::int64_t product(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) too_large();
  return result;
}

std::int64_t quotient(std::int64_t a, std::int64_t b) {
  check_division(a, b);
  return a / b;
}

std::int64_t remainder(std::int64_t a, std::int64_t b) {
  check_division(a, b);
  return a % b;
}

void allow(std::size_t bytes) {
  left = bytes;
}

void made(std::size_t bytes) {
  if (bytes > left) throw std::runtime_error("the template makes more text than a prompt can have");
  left -= bytes;
}

std::string joined(std::string first, const std::string& second) {
  made(first.size() + second.size());
  return std::move(first) + second;
}

std::int64_t repeated(std::size_t bytes, std::int64_t times) {
  times = std::max<std::int64_t>(times, 0);
  std::size_t all = 0;
  if (__builtin_mul_overflow(std::max<std::size_t>(bytes, 1), static_cast<std::size_t>(times), &all))
    all = std::numeric_limits<std::size_t>::max();
  made(all);
  return times;
}

}  // namespace template_guards
