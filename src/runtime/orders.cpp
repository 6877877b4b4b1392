// SPDX-License-Identifier: Apache-2.0
#include "runtime/orders.h"

#include <cstring>
#include <type_traits>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

// Arrays carry their length in front, as 64 bits.
class Writer {
 public:
  template <class... T>
  void operator()(const T&... values) {
    (put(values), ...);
  }
  std::string take() { return std::move(bytes_); }

 private:
  template <class T>
  void put(const T& value);
  void put_bytes(const void* data, std::size_t size) { bytes_.append(static_cast<const char*>(data), size); }
  std::string bytes_;
};

// Never trusts a length: nothing is allocated beyond what the bytes that are there can hold.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes), size_(bytes.size()) {}
  template <class... T>
  void operator()(T&... values) {
    (get(values), ...);
  }
  void expect_end() const {
    if (!rest_.empty()) refuse();
  }

 private:
  template <class T>
  void get(T& value);
  void get_bytes(void* data, std::size_t size) {
    if (size > rest_.size()) refuse();
    if (size > 0) std::memcpy(data, rest_.data(), size);
    rest_.remove_prefix(size);
  }
  [[noreturn]] void refuse() const {
    throw Error(fmt::format("damaged orders of {} bytes at byte {}", size_, size_ - rest_.size()),
                "all ranks must run the same build of nightshift");
  }
  std::string_view rest_;
  std::size_t size_;
};

// Field tables for both directions. The structured bindings name every member: one that is added to a
// struct and forgotten here does not compile.
template <class Archive, class Params>
requires std::is_same_v<std::remove_const_t<Params>, SamplingParams>
void visit(Archive& archive, Params& params) {
  auto& [max_tokens, min_tokens, temperature, top_p, top_k, min_p, repetition, presence, frequency, seed,
         own_seed, stop, stop_token_ids, ignore_eos, n, logprobs, max_seconds, repetition_guard,
         repetition_ngram] = params;
  archive(max_tokens, min_tokens, temperature, top_p, top_k, min_p, repetition, presence, frequency, seed,
          own_seed, stop, stop_token_ids, ignore_eos, n, logprobs, max_seconds, repetition_guard,
          repetition_ngram);
}

template <class Archive, class Request>
requires std::is_same_v<std::remove_const_t<Request>, scheduler::Request>
void visit(Archive& archive, Request& request) {
  auto& [id, prompt, params, random_key, output] = request;
  archive(id, prompt, params, random_key, output);
}

template <class Archive, class Any>
requires std::is_same_v<std::remove_const_t<Any>, Orders>
void visit(Archive& archive, Any& orders) {
  auto& [stop, cancel, admitted, closed, end] = orders;
  archive(stop, cancel, admitted, closed, end);
}

template <class T>
constexpr bool kIsArray = requires(T& value) {
  value.resize(1);
};

template <class T>
void Writer::put(const T& value) {
  if constexpr (std::is_arithmetic_v<T>) {
    put_bytes(&value, sizeof value);
  } else if constexpr (!kIsArray<T>) {
    visit(*this, value);
  } else {
    put(std::uint64_t{value.size()});
    if constexpr (std::is_arithmetic_v<typename T::value_type>) {
      put_bytes(value.data(), value.size() * sizeof(typename T::value_type));
    } else {
      for (const auto& item : value) put(item);
    }
  }
}

template <class T>
void Reader::get(T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    unsigned char byte = 0;
    get_bytes(&byte, 1);
    if (byte > 1) refuse();
    value = byte == 1;
  } else if constexpr (std::is_arithmetic_v<T>) {
    get_bytes(&value, sizeof value);
  } else if constexpr (!kIsArray<T>) {
    visit(*this, value);
  } else {
    using Item = typename T::value_type;
    std::uint64_t size = 0;
    get(size);
    constexpr std::size_t kLeast = std::is_arithmetic_v<Item> ? sizeof(Item) : sizeof(std::uint64_t);
    if (size > rest_.size() / kLeast) refuse();
    value.resize(size);
    if constexpr (std::is_arithmetic_v<Item>) {
      get_bytes(value.data(), size * sizeof(Item));
    } else {
      for (Item& item : value) get(item);
    }
  }
}

}  // namespace

std::string Orders::encode() const {
  Writer writer;
  writer(*this);
  return writer.take();
}

Orders Orders::decode(std::string_view bytes) {
  Orders orders;
  Reader reader(bytes);
  reader(orders);
  reader.expect_end();
  return orders;
}

}  // namespace nightshift::runtime
