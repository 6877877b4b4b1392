// SPDX-License-Identifier: Apache-2.0
// config.json and generation_config.json, and the arithmetic on what they say.
#include <cmath>

#include "fuzz/support.h"
#include "model/files/model_files.h"

using namespace nightshift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchFolder folder;
  const auto parts = fuzz::split_parts(fuzz::as_text(data, size), 2);
  folder.write("config.json", parts[0]);
  folder.remove("generation_config.json");
  if (!parts[1].empty()) folder.write("generation_config.json", parts[1]);
  fuzz::allow_errors([&] {
    const model::ModelConfig config = model::read_model_config(folder.path());
    const std::int64_t context = model::longest_context(config);
    fuzz::expect(context > 0, "no context");
    const model::StepLimits limits{
        .max_context = context, .max_query_tokens = 512, .max_sampled_rows = 64, .kv_blocks = 1000};
    fuzz::expect(model::bytes_needed(config, limits).total() > 0, "a model of no bytes");
    const auto rope = model::rope_frequencies(config.rope, config.shape.head_dim, context);
    for (const float frequency : rope.inverse) fuzz::expect(std::isfinite(frequency), "RoPE is not finite");
  });
  return 0;
}
