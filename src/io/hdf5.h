// SPDX-License-Identifier: Apache-2.0
// The only door to HDF5: handles that close themselves, every return code checked and turned into Error with
// the file, the dataset and HDF5's own words. hdf5.h itself is included by hdf5.cpp alone.
//
// Debian builds HDF5 without threads, so every call here takes one process-wide lock; objects may be used
// from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nightshift::io::h5 {

enum class TypeClass : std::uint8_t { integer, floating, enumeration, string, other };

struct DatasetInfo {
  TypeClass type = TypeClass::other;
  std::size_t type_bytes = 0;  // of one element; of the longest string where strings are fixed
  bool is_signed = true;
  bool variable = false;  // strings of variable length
  std::string type_name;  // for people: "int32", "string (variable, UTF-8)"
  std::vector<std::uint64_t> shape;
  std::vector<std::uint64_t> chunk;  // empty: not chunked
  std::string filters;               // "shuffle, deflate"
  std::uint64_t stored_bytes = 0;

  std::uint64_t rows() const { return shape.empty() ? 0 : shape[0]; }
  bool is_column() const { return shape.size() == 1; }
  bool is_number() const { return type == TypeClass::integer || type == TypeClass::floating; }
};

// What a dataset that we create holds. Numbers are little-endian, strings variable in length and UTF-8.
enum class Store : std::uint8_t { int8, int32, int64, uint64, float32, float64, string, finish_reason };

struct ColumnSpec {
  Store store = Store::int32;
  std::uint64_t rows = 0;   // initial extent; grows by append
  std::uint64_t first = 0;  // rows that come first: a small column gets a chunk of its size; 0: not known
  std::uint64_t width = 0;  // 0: [rows]; else [rows, width]
  int deflate = 0;          // 1..9, with byte shuffle; not for strings
  std::optional<double> fill{};  // what rows hold that are never written
};

class Dataset {
 public:
  Dataset() = default;
  const DatasetInfo& info() const { return info_; }
  const std::string& name() const { return name_; }
  std::uint64_t rows() const { return info_.rows(); }

  // Rows first .. first + count - 1, all columns; HDF5 converts between number types. T: int8, uint8, int32,
  // int64, uint64, float, double.
  template <class T>
  void read(std::uint64_t first, std::uint64_t count, T* out) const;
  std::vector<std::string> read_strings(std::uint64_t first, std::uint64_t count) const;

  // Extends the dataset by the given rows.
  template <class T>
  void append(std::span<const T> values);
  void append_strings(std::span<const std::string> values);  // without U+0000: HDF5 would cut there
  void extend(std::uint64_t rows);  // to so many rows, unwritten ones hold the fill value

 private:
  friend class File;
  struct Ids;
  std::shared_ptr<Ids> ids_;
  std::string file_, name_;
  DatasetInfo info_;
};

class File {
 public:
  static File open(
      const std::string& path);  // read-only; BadInput when there is no such file or it is not HDF5
  static File create(const std::string& path);  // replaces what is there
  File() = default;

  const std::string& path() const { return path_; }
  bool has(const std::string& name) const;  // "/prompts/text"; also groups
  Dataset dataset(const std::string& name) const;
  // BadInput when the dataset claims more rows than a file of this size can stand for: a few damaged bytes,
  // or rows that were never written, must not keep a reader busy for days.
  void check_extent(const Dataset& data) const;
  Dataset create(const std::string& name, const ColumnSpec& spec);  // makes the groups on the way
  std::vector<std::string> children(
      const std::string& group) const;  // sorted names; empty if there is no such group
  bool is_group(const std::string& name) const;

  // Attributes of a group or dataset ("/" is the root), as text; numbers and small arrays are printed.
  std::vector<std::pair<std::string, std::string>> attributes(const std::string& object) const;
  std::optional<std::string> attribute(const std::string& object, const std::string& name) const;
  void set_attribute(const std::string& object, const std::string& name, std::string_view text);

  // Everything to the file system, and the handle closed. Errors that HDF5 kept back (disk full) come out
  // here. All datasets of the file must be gone.
  void close();

 private:
  void create_group(const std::string& name);  // unless it exists

  struct Ids;
  std::shared_ptr<Ids> ids_;
  std::string path_;
};

}  // namespace nightshift::io::h5
