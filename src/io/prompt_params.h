// SPDX-License-Identifier: Apache-2.0
// The /params columns of a prompts file, applied to rows.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/params.h"
#include "io/hdf5.h"
#include "io/prompts.h"

namespace nightshift::io {

class ParamColumns {
 public:
  // BadInput on a column that is unknown, of the wrong type or not `rows` long.
  ParamColumns(const h5::File& file, std::uint64_t rows);

  // Rows first ..: columns first, then /params/json, which is the more specific. A bad value becomes the
  // row's error.
  void apply(PromptRow first, std::span<Prompt> prompts) const;

  // max_tokens of rows first .. first + count - 1, `standard` where the cell says so; none without that
  // column.
  bool has_max_tokens() const;
  std::vector<std::uint64_t> max_tokens(PromptRow first, std::uint64_t count, std::int64_t standard) const;

 private:
  struct Column {
    const ParamInfo* info;
    h5::Dataset data;
  };
  void apply_numbers(const Column& column, PromptRow first, std::span<Prompt> prompts) const;
  void apply_texts(const Column& column, PromptRow first, std::span<Prompt> prompts) const;
  void apply_json(PromptRow first, std::span<Prompt> prompts) const;

  std::vector<Column> columns_;
  std::optional<h5::Dataset> json_;
};

}  // namespace nightshift::io
