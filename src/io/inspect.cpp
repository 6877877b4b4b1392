// SPDX-License-Identifier: Apache-2.0
#include "io/inspect.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "io/hdf5.h"

namespace nightshift::io {
namespace {

constexpr std::uint64_t kRowsPerRead = 1u << 16;
constexpr std::size_t kMostColumns = 1000;  // of a foreign file; ours have some twenty
constexpr int kDeepest = 8;
constexpr std::size_t kAttributeShown = 60;

std::string format_of(const h5::File& file) {
  const std::string named = file.attribute("/", "nightshift_format").value_or("");
  if (named == "prompts/1" || named == "results/1") return named;
  if (file.has("/prompts/text") || file.has("/prompts/messages") || file.has("/prompts/tokens"))
    return "prompts/1";
  return "HDF5";
}

void list_columns(const h5::File& file, const std::string& group, int depth,
                  std::vector<InspectedColumn>& out) {
  for (const std::string& name : file.children(group)) {
    const std::string path = (group == "/" ? "" : group) + "/" + name;
    if (out.size() == kMostColumns || !file.has(path)) continue;  // a link that leads nowhere
    if (file.is_group(path)) {
      if (depth < kDeepest) list_columns(file, path, depth + 1, out);
      continue;
    }
    const h5::Dataset data = file.dataset(path);
    const h5::DatasetInfo& info = data.info();
    out.push_back({path, info.type_name, info.shape, info.chunk, info.filters, info.stored_bytes});
  }
}

// A column that is read from end to end.
h5::Dataset whole_column(const h5::File& file, const std::string& path) {
  h5::Dataset data = file.dataset(path);
  file.check_extent(data);
  return data;
}

LengthStatistics lengths_of(const h5::Dataset& offsets) {
  LengthStatistics s;
  if (offsets.rows() == 0) return s;
  const std::uint64_t rows = offsets.rows() - 1;
  std::vector<std::uint64_t> bounds;
  s.min = rows > 0 ? std::numeric_limits<std::uint64_t>::max() : 0;
  for (std::uint64_t first = 0; first < rows; first += kRowsPerRead) {
    bounds.resize(std::min(kRowsPerRead, rows - first) + 1);
    offsets.read(first, bounds.size(), bounds.data());
    for (std::size_t i = 1; i < bounds.size(); ++i) {
      const std::uint64_t length = bounds[i] < bounds[i - 1] ? 0 : bounds[i] - bounds[i - 1];
      s.min = std::min(s.min, length);
      s.max = std::max(s.max, length);
      s.total += length;
    }
  }
  s.mean = rows > 0 ? static_cast<double>(s.total) / static_cast<double>(rows) : 0.0;
  return s;
}

std::vector<std::pair<std::string, std::uint64_t>> count_reasons(const h5::Dataset& data) {
  constexpr std::array names{"none", "stop", "length", "failed", "cancelled", "repetition"};
  std::array<std::uint64_t, 256> counts{};
  std::vector<std::uint8_t> values;
  for (std::uint64_t first = 0; first < data.rows(); first += kRowsPerRead) {
    values.resize(std::min(kRowsPerRead, data.rows() - first));
    data.read(first, values.size(), values.data());
    for (const std::uint8_t value : values) ++counts[value];
  }
  std::vector<std::pair<std::string, std::uint64_t>> out;
  for (std::size_t i = 1; i < names.size(); ++i) out.emplace_back(names[i], counts[i]);
  return out;
}

bool is_number_column(const h5::File& file, const std::string& path) {
  if (!file.has(path) || file.is_group(path)) return false;
  const h5::DatasetInfo info = file.dataset(path).info();
  return info.is_column() && info.rows() > 0 &&
         (info.type == h5::TypeClass::integer || info.type == h5::TypeClass::enumeration);
}

void add_prompts(const h5::File& file, Inspection& out) {
  for (const char* form : {"text", "messages", "tokens"}) {
    const std::string path = fmt::format("/prompts/{}", form);
    if (!file.has(path) || file.is_group(path)) continue;
    out.form += (out.form.empty() ? "" : " and ") + std::string(form);
    out.rows = file.dataset(path).rows();
  }
  if (!is_number_column(file, "/prompts/offsets")) return;
  out.lengths = lengths_of(whole_column(file, "/prompts/offsets"));
  out.rows = std::max<std::uint64_t>(file.dataset("/prompts/offsets").rows(), 1) - 1;
}

void add_results(const h5::File& file, Inspection& out) {
  if (file.has("/results/text")) out.rows = file.dataset("/results/text").rows();
  if (is_number_column(file, "/results/offsets"))
    out.lengths = lengths_of(whole_column(file, "/results/offsets"));
  if (is_number_column(file, "/results/finish_reason")) {
    out.finish_reasons = count_reasons(whole_column(file, "/results/finish_reason"));
  }
}

std::string shorten(const std::string& text) {
  return text.size() <= kAttributeShown
             ? text
             : text.substr(0, kAttributeShown) + fmt::format("... ({} bytes)", text.size());
}

std::string describe(const InspectedColumn& column) {
  std::string text =
      fmt::format("  {:<26} {:<30} [{}]", column.path, column.type, fmt::join(column.shape, ", "));
  if (!column.chunk.empty()) text += fmt::format("  chunk [{}]", fmt::join(column.chunk, ", "));
  if (!column.filters.empty()) text += "  " + column.filters;
  return text + fmt::format("  {}\n", format_bytes(static_cast<double>(column.stored_bytes)));
}

}  // namespace

std::string file_format(const std::string& path) {
  return format_of(h5::File::open(path));
}

Inspection inspect_file(const std::string& path) {
  const h5::File file = h5::File::open(path);
  Inspection out;
  out.path = path;
  out.format = format_of(file);
  out.file_bytes = std::filesystem::file_size(path);
  out.attributes = file.attributes("/");
  list_columns(file, "/", 0, out.columns);
  if (out.format == "prompts/1") add_prompts(file, out);
  if (out.format == "results/1") add_results(file, out);
  return out;
}

std::string to_text(const Inspection& in) {
  std::string text =
      fmt::format("{}: {}, {}", in.path, in.format, format_bytes(static_cast<double>(in.file_bytes)));
  if (in.format != "HDF5")
    text += fmt::format(", {} rows{}", in.rows, in.form.empty() ? "" : " of " + in.form);
  text += "\n";
  for (const InspectedColumn& column : in.columns) text += describe(column);
  if (in.lengths) {
    text += fmt::format("  tokens per row: {} to {}, mean {:.1f}, {} in all\n", in.lengths->min,
                        in.lengths->max, in.lengths->mean, in.lengths->total);
  }
  for (const auto& [reason, count] : in.finish_reasons) {
    if (count > 0) text += fmt::format("  {}: {}\n", reason, count);
  }
  for (const auto& [name, value] : in.attributes) text += fmt::format("  @{} = {}\n", name, shorten(value));
  return text;
}

std::string to_json(const Inspection& in) {
  using Json = nlohmann::ordered_json;
  Json columns = Json::array(), attributes = Json::object(), reasons = Json::object();
  for (const InspectedColumn& c : in.columns) {
    columns.push_back({{"path", c.path},
                       {"type", c.type},
                       {"shape", c.shape},
                       {"chunk", c.chunk},
                       {"filters", c.filters},
                       {"stored_bytes", c.stored_bytes}});
  }
  for (const auto& [name, value] : in.attributes) attributes[name] = value;
  for (const auto& [name, count] : in.finish_reasons) reasons[name] = count;
  Json out{{"path", in.path}, {"format", in.format}, {"file_bytes", in.file_bytes}, {"rows", in.rows}};
  if (!in.form.empty()) out["form"] = in.form;
  out["columns"] = std::move(columns);
  if (in.lengths) {
    out["tokens_per_row"] = {{"min", in.lengths->min},
                             {"max", in.lengths->max},
                             {"mean", in.lengths->mean},
                             {"total", in.lengths->total}};
  }
  if (!in.finish_reasons.empty()) out["finish_reasons"] = std::move(reasons);
  out["attributes"] = std::move(attributes);
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace nightshift::io
