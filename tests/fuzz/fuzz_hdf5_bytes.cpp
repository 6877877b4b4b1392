// SPDX-License-Identifier: Apache-2.0
// The bytes of an HDF5 file, through everything that opens one: prompts, inspection and both conversions.
#include "fuzz/support.h"
#include "io/inspect.h"
#include "io/jsonl.h"
#include "io/prompts.h"

using namespace nightshift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  const std::string file = folder.write("input.h5", fuzz::as_text(data, size));
  const std::string lines = folder.path() / "lines.jsonl";
  fuzz::allow_errors([&] {
    const io::PromptReader reader(file);
    fuzz::allow_errors([&] { reader.check_all_rows(); });
    fuzz::allow_errors([&] { reader.unit_costs(1024); });
    fuzz::allow_errors([&] { reader.read(0, 100); });
    fuzz::allow_errors([&] { io::export_batch(file, lines); });
  });
  fuzz::allow_errors([&] { io::export_results(file, lines); });
  fuzz::allow_errors([&] {
    const io::Inspection found = io::inspect_file(file);
    fuzz::expect(!to_text(found).empty() && !to_json(found).empty(), "an inspection is empty");
  });
  return 0;
}
