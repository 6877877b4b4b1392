// SPDX-License-Identifier: Apache-2.0
// Little-endian records in memory: a writer that grows, a reader that never trusts a length.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace nightshift::io {

static_assert(std::endian::native == std::endian::little,
              "journals are little-endian and written as they lie in memory");

template <class T>
void put(std::vector<char>& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::size_t at = out.size();
  out.resize(at + sizeof(T));
  std::memcpy(out.data() + at, &value, sizeof(T));
}

inline void put_bytes(std::vector<char>& out, const void* data, std::size_t size) {
  const char* bytes = static_cast<const char*>(data);
  out.insert(out.end(), bytes, bytes + size);
}

// Reads past the end give zeros and make ok() false; nothing is allocated beyond the bytes that are there.
class ByteReader {
 public:
  explicit ByteReader(std::span<const char> bytes) : rest_(bytes) {}

  template <class T>
  T get() {
    T value{};
    take(&value, sizeof(T));
    return value;
  }

  std::string get_text(std::uint64_t size) {
    if (!fits(size)) return {};
    std::string text(rest_.data(), size);
    rest_ = rest_.subspan(size);
    return text;
  }

  template <class T>
  std::vector<T> get_array(std::uint64_t count) {
    if (count > rest_.size() / sizeof(T)) ok_ = false;
    std::vector<T> values(ok_ ? count : 0);
    take(values.data(), values.size() * sizeof(T));
    return values;
  }

  bool ok() const { return ok_; }
  bool at_end() const { return rest_.empty(); }

 private:
  bool fits(std::uint64_t size) {
    if (size > rest_.size()) ok_ = false;
    return ok_;
  }
  void take(void* out, std::size_t size) {
    if (size == 0 || !fits(size)) return;
    std::memcpy(out, rest_.data(), size);
    rest_ = rest_.subspan(size);
  }

  std::span<const char> rest_;
  bool ok_ = true;
};

}  // namespace nightshift::io
