// SPDX-License-Identifier: Apache-2.0
// What is in an HDF5 file, in the terms of our formats; any other HDF5 file is listed as it is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nightshift::io {

struct InspectedColumn {
  std::string path;  // "/prompts/text"
  std::string type;  // "string (variable, UTF-8)", "int32", "enum", ...
  std::vector<std::uint64_t> shape;
  std::vector<std::uint64_t> chunk;  // empty: not chunked
  std::string filters;               // "shuffle, deflate", or empty
  std::uint64_t stored_bytes = 0;    // without the heap of variable-length strings
};

struct LengthStatistics {  // tokens per row, from an offsets column
  std::uint64_t min = 0, max = 0, total = 0;
  double mean = 0.0;
};

struct Inspection {
  std::string path;
  std::string format;  // "prompts/1", "results/1", or "HDF5"
  std::string form;    // of prompts: text, messages, tokens
  std::uint64_t file_bytes = 0;
  std::uint64_t rows = 0;
  std::vector<InspectedColumn> columns;
  std::optional<LengthStatistics> lengths;
  std::vector<std::pair<std::string, std::uint64_t>> finish_reasons;  // of results, in order of the enum
  std::vector<std::pair<std::string, std::string>> attributes;        // of the root
};

// "prompts/1", "results/1" or "HDF5", from the attribute or, without one, from the columns. Opens the file
// only.
std::string file_format(const std::string& path);

Inspection inspect_file(const std::string& path);  // BadInput when it is not a readable HDF5 file

std::string to_text(const Inspection& inspection);  // a table, attributes shortened
std::string to_json(const Inspection& inspection);  // one JSON object

}  // namespace nightshift::io
