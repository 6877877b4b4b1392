// SPDX-License-Identifier: Apache-2.0
// The datasets of a result file, filled row by row through buffers of bounded size.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/hdf5.h"
#include "io/journal.h"
#include "io/results.h"

namespace nightshift::io {

// Hash of what a reader gets for one row: the writer keeps it, the check after reopening computes it again.
std::uint64_t row_hash(const std::vector<TokenId>& tokens, const std::string& text, const std::string& error,
                       std::uint8_t finish_reason);

class ResultColumns {
 public:
  ResultColumns(h5::File& file, bool text_ids, const ResultOptions& options);

  void add(const RowId& id, const ResultRecord& record);
  void finish();  // writes what is still buffered
  std::uint64_t rows() const { return rows_; }
  std::uint64_t tokens() const { return total_tokens_; }

 private:
  // One dataset and the rows that wait for it. It is created with the first write: if that is the last one as
  // well, the dataset is small and gets a chunk of its size. A first block of few but long rows says nothing.
  template <class T>
  struct Column {
    h5::File* file = nullptr;
    std::string name;
    h5::ColumnSpec spec;
    std::optional<h5::Dataset> created;
    std::vector<T> waiting;

    void open(h5::File& file_, const std::string& name_, h5::Store store, int deflate,
              std::uint64_t width = 0) {
      file = &file_;
      name = "/results/" + name_;
      spec = {.store = store, .width = width, .deflate = deflate};
    }
    void flush(bool last) {
      if (!created) {
        if (last) spec.first = waiting.size() / std::max<std::uint64_t>(spec.width, 1);
        created = file->create(name, spec);
      }
      h5::Dataset& data = *created;
      if constexpr (std::is_same_v<T, std::string>) {
        data.append_strings(waiting);
      } else {
        data.append(std::span<const T>(waiting));
      }
      waiting.clear();
    }
  };

  void flush(bool last);
  void add_logprobs(const ResultRecord& record);
  template <class Visit>
  void for_each_column(const Visit& visit);

  bool text_ids_;
  bool logprobs_wanted_;
  std::int32_t top_k_;
  std::uint64_t rows_ = 0, total_tokens_ = 0;
  std::size_t waiting_bytes_ = 0;

  Column<std::string> text_id_, text_, error_;
  Column<std::int64_t> number_id_;
  Column<std::uint64_t> row_, offsets_;
  Column<std::int32_t> sample_, tokens_, prompt_tokens_, output_tokens_, cached_tokens_, top_tokens_;
  Column<std::uint8_t> finish_reason_;
  Column<double> started_, first_token_, finished_;
  Column<float> logprobs_, top_logprobs_;
};

}  // namespace nightshift::io
