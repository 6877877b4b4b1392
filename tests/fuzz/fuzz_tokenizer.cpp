// SPDX-License-Identifier: Apache-2.0
// tokenizer.json, a text, and tokenizer_config.json. What is loaded must encode and decode the text, in one
// piece and token by token, to ids of the vocabulary and to equal text.
#include "fuzz/support.h"
#include "tokenizer/tokenizer.h"

using namespace nightshift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  const auto parts = fuzz::split_parts(fuzz::as_text(data, size), 3);
  folder.write("tokenizer.json", parts[0]);
  folder.remove("tokenizer_config.json");
  if (!parts[2].empty()) folder.write("tokenizer_config.json", parts[2]);
  fuzz::allow_errors([&] {
    const auto tokenizer = tokenizer::Tokenizer::load(folder.path());
    for (const std::string_view text : {std::string_view("Hello,  w\u00f6rld \u65e5 12"), parts[1]}) {
      fuzz::allow_errors([&] {
        const std::vector<TokenId> ids = tokenizer.encode(text, true);
        for (const TokenId id : ids)
          fuzz::expect(id >= 0 && id < tokenizer.vocab_size(), "an id outside the vocabulary");
        tokenizer::StreamDecoder stream(tokenizer, false);
        std::string streamed;
        for (const TokenId id : ids) streamed += stream.push(id);
        streamed += stream.finish();
        fuzz::expect(streamed == tokenizer.decode(ids, false), "streamed text differs");
      });
    }
  });
  return 0;
}
