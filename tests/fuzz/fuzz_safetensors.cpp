// SPDX-License-Identifier: Apache-2.0
// A checkpoint: one .safetensors file, or, where the input begins with '{', the index of a sharded one. The
// input's bytes are the header's JSON; its length stands before it as the format wants, unless the input
// begins with a zero byte, which leaves even that to the fuzzer. Behind the header lie kDataBytes bytes.
#include <array>

#include "fuzz/support.h"
#include "model/files/model_files.h"

using namespace nightshift;

namespace {

constexpr std::size_t kDataBytes = 4096;

constexpr std::string_view kConfig = R"({"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4,
  "intermediate_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 8,
  "max_position_embeddings": 16, "tie_word_embeddings": true})";

std::string with_length(std::string_view header) {
  std::string out;
  for (int shift = 0; shift < 64; shift += 8) out += static_cast<char>(header.size() >> shift);
  return out + std::string(header);
}

void place(const fuzz::ScratchFolder& folder, std::string_view input) {
  folder.remove("model.safetensors.index.json");
  const std::string data(kDataBytes, '\x3f');
  if (!input.empty() && input[0] == '\0') {
    folder.write("model.safetensors", input.substr(1));
  } else if (input.starts_with("{ ")) {
    folder.write("model.safetensors.index.json", input);
  } else {
    folder.write("model.safetensors", with_length(input) + data);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  static const auto config = folder.write("config.json", kConfig);
  static const auto shard = folder.write(
      "shard-1.safetensors",
      with_length(R"({"model.norm.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})") +
          std::string(16, '\0'));
  place(folder, fuzz::as_text(data, size));
  fuzz::allow_errors([&] {
    const model::Checkpoint checkpoint = model::open_checkpoint(folder.path());
    for (const auto& [name, tensor] : checkpoint.tensors) {
      const auto& file = checkpoint.files.at(static_cast<std::size_t>(tensor.file));
      fuzz::expect(tensor.offset <= file.bytes && tensor.bytes <= file.bytes - tensor.offset,
                   "a tensor lies outside its file");
    }
  });
  fuzz::allow_errors([&] {
    const model::ModelFiles files = model::open_model_files(folder.path());
    fuzz::expect(model::model_digest(files).size() == 32, "the model's digest is not one");
    fuzz::expect(model::parameter_count(files.weights) > 0, "a model without parameters");
  });
  return 0;
}
