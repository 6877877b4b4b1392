// SPDX-License-Identifier: Apache-2.0
#include "io/text_column.h"

#include <algorithm>

#include "core/check.h"
#include "io/hdf5.h"

namespace nightshift::io {

struct TextColumn::Impl {
  h5::Dataset dataset;
};

TextColumn::TextColumn(const std::string& path, const std::string& dataset)
    : impl_(std::make_unique<Impl>()) {
  const h5::File file = h5::File::open(path);
  if (!file.has(dataset)) {
    throw BadInput(fmt::format("{} has no {}", path, dataset),
                   "nightshift inspect shows what the file holds");
  }
  impl_->dataset = file.dataset(dataset);
  const h5::DatasetInfo& info = impl_->dataset.info();
  if (!info.is_column() || (info.type != h5::TypeClass::string && info.type != h5::TypeClass::integer)) {
    throw BadInput(
        fmt::format("{}: {} is {}, not a column of strings or integers", path, dataset, info.type_name));
  }
}

TextColumn::TextColumn(TextColumn&&) noexcept = default;
TextColumn::~TextColumn() = default;

bool TextColumn::exists(const std::string& path, const std::string& dataset) {
  return h5::File::open(path).has(dataset);
}

std::uint64_t TextColumn::rows() const {
  return impl_->dataset.rows();
}

std::vector<std::string> TextColumn::read(std::uint64_t first, std::uint64_t count) const {
  count = first < rows() ? std::min(count, rows() - first) : 0;
  if (impl_->dataset.info().type == h5::TypeClass::string) return impl_->dataset.read_strings(first, count);
  std::vector<std::int64_t> numbers(count);
  impl_->dataset.read(first, count, numbers.data());
  std::vector<std::string> text;
  for (const std::int64_t number : numbers) text.push_back(std::to_string(number));
  return text;
}

}  // namespace nightshift::io
