// SPDX-License-Identifier: Apache-2.0
// Well-formed HDF5 files with arbitrary columns: what fuzz_hdf5_bytes hardly ever reaches, because most
// changes of a byte end inside the HDF5 library. The input is a small program that creates columns.
#include <algorithm>
#include <array>

#include "fuzz/support.h"
#include "io/hdf5.h"
#include "io/inspect.h"
#include "io/jsonl.h"
#include "io/prompts.h"

using namespace nightshift;

namespace {

constexpr std::array kNames{"/prompts/text",
                            "/prompts/messages",
                            "/prompts/tokens",
                            "/prompts/offsets",
                            "/prompts/id",
                            "/prompts/extra",
                            "/prompts/txet",
                            "/params/json",
                            "/params/max_tokens",
                            "/params/temperature",
                            "/params/stop",
                            "/params/stop_token_ids",
                            "/params/ignore_eos",
                            "/params/n",
                            "/params/logprobs",
                            "/results/id",
                            "/results/row",
                            "/results/sample",
                            "/results/text",
                            "/results/error",
                            "/results/tokens",
                            "/results/offsets",
                            "/results/finish_reason",
                            "/results/prompt_tokens",
                            "/results/output_tokens",
                            "/results/cached_tokens",
                            "/results/logprobs",
                            "/results/top_tokens",
                            "/results/top_logprobs",
                            "/prompts/text/deeper",
                            "/else/column",
                            "/params/unknown"};

// Takes values off the front of the input; zeros when it is used up.
class Input {
 public:
  explicit Input(std::string_view rest) : rest_(rest) {}
  bool empty() const { return rest_.empty(); }
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto value = static_cast<std::uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return value;
  }
  std::string text() {
    const std::size_t size = std::min<std::size_t>(byte(), rest_.size());
    std::string out(rest_.substr(0, size));
    rest_.remove_prefix(size);
    std::erase(out, '\0');  // HDF5 strings end there
    return out;
  }
  std::int64_t number() {
    const std::uint8_t kind = byte();
    if (kind < 200) return kind;
    constexpr std::array<std::int64_t, 6> kEdges{-1,        INT64_MIN,    INT64_MAX,
                                                 1LL << 31, -(1LL << 31), 1LL << 40};
    return kEdges[kind % kEdges.size()];
  }

 private:
  std::string_view rest_;
};

void add_column(io::h5::File& file, Input& in) {
  const std::string name = kNames[in.byte() % kNames.size()];
  const std::uint8_t store = in.byte() % 8;
  io::h5::ColumnSpec spec{.store = static_cast<io::h5::Store>(store)};
  spec.first = 16;
  const std::uint8_t shape = in.byte();
  if (shape >= 224 && spec.store != io::h5::Store::string) spec.width = shape % 4;
  if (shape % 8 == 7) spec.deflate = 1;
  const std::size_t count = in.byte() % 20;
  io::h5::Dataset data = file.create(name, spec);
  if (spec.store == io::h5::Store::string) {
    std::vector<std::string> values(count);
    for (std::string& value : values) value = in.text();
    data.append_strings(values);
  } else {
    std::vector<std::int64_t> values(count * std::max<std::uint64_t>(spec.width, 1));
    for (std::int64_t& value : values) value = in.number();
    data.append(std::span<const std::int64_t>(values));
  }
  // Rows that were never written: some, or more than anybody has; what lies between only takes its time.
  const std::uint8_t power = in.byte() % 40;
  if (shape == 128) data.extend(std::uint64_t{1} << (power < 30 ? power % 13 : power));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  const std::string path = folder.path() / "input.h5", lines = folder.path() / "lines.jsonl";
  Input in(fuzz::as_text(data, size));
  const bool results = in.byte() % 2 == 1;
  auto file = io::h5::File::create(path);
  for (int columns = 0; columns < 20 && !in.empty(); ++columns)
    fuzz::allow_errors([&] { add_column(file, in); });  // such as a name that is taken
  if (results) {
    file.set_attribute("/", "nightshift_format", "results/1");
    file.set_attribute("/", "provenance", in.text());
  }
  file.close();
  fuzz::allow_errors([&] {
    const io::PromptReader reader(path);
    fuzz::allow_errors([&] { reader.check_all_rows(); });
    fuzz::allow_errors([&] { reader.unit_costs(1024); });
    fuzz::allow_errors([&] { reader.read(0, 100); });
    fuzz::allow_errors([&] { io::export_batch(path, lines); });
  });
  fuzz::allow_errors([&] { io::export_results(path, lines); });
  fuzz::allow_errors([&] { to_json(io::inspect_file(path)); });
  return 0;
}
