// SPDX-License-Identifier: Apache-2.0
// OpenAI batch lines. What is accepted must come back as equally many lines that are accepted again.
#include "fuzz/support.h"
#include "io/jsonl.h"

using namespace nightshift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  const std::string lines = folder.write("in.jsonl", fuzz::as_text(data, size));
  const std::string prompts = folder.path() / "prompts.h5", back = folder.path() / "back.jsonl";
  std::uint64_t rows = 0;
  bool accepted = false;
  fuzz::allow_errors([&] {
    rows = io::import_batch(lines, prompts).rows;
    accepted = true;
  });
  if (!accepted) return 0;
  const io::PromptReader reader(prompts);
  reader.check_all_rows();
  fuzz::expect(reader.read(0, rows + 1).size() == rows, "rows are missing from the prompts file");
  fuzz::expect(io::export_batch(prompts, back) == rows, "lines are missing on the way back");
  fuzz::expect(io::import_batch(back, prompts).rows == rows, "lines of our own are refused");
  return 0;
}
