// SPDX-License-Identifier: Apache-2.0
// A chat template, the messages of a prompt, and the template's other arguments.
#include "fuzz/support.h"
#include "tokenizer/tokenizer.h"

using namespace nightshift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  const auto parts = fuzz::split_parts(fuzz::as_text(data, size), 3);
  folder.write("chat_template.jinja", parts[0]);
  fuzz::allow_errors([&] {
    const auto chat = tokenizer::ChatTemplate::load(folder.path(), "auto", 1700000000);
    fuzz::allow_errors([&] { chat.render(R"([{"role": "user", "content": "Hello"}])"); });
    if (!parts[1].empty()) fuzz::allow_errors([&] { chat.render(parts[1], parts[2]); });
  });
  return 0;
}
