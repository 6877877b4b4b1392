// SPDX-License-Identifier: Apache-2.0
// One column of any HDF5 file as text, streamed: for tools that compare columns of different files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nightshift::io {

class TextColumn {
 public:
  // BadInput when the file or the dataset is missing, or the dataset is no column [N] of strings or integers.
  TextColumn(const std::string& path, const std::string& dataset);
  TextColumn(TextColumn&&) noexcept;
  ~TextColumn();

  static bool exists(const std::string& path, const std::string& dataset);

  std::uint64_t rows() const;
  std::vector<std::string> read(std::uint64_t first, std::uint64_t count) const;  // integers in decimal

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nightshift::io
