// SPDX-License-Identifier: Apache-2.0
#include "model/files/model_files.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "core/check.h"
#include "model/files/json_object.h"

namespace nightshift::model {

namespace {

constexpr std::int64_t kPanelRows = 64;  // packed matrices round their rows up to whole panels
constexpr std::uint64_t kSampleBytes = 4096;
constexpr std::uint64_t kMaxConfigBytes = 8u << 20;

std::int64_t packed_bytes(std::int64_t rows, std::int64_t columns) {
  return (rows + kPanelRows - 1) / kPanelRows * kPanelRows * columns * 2;
}

std::int64_t weight_bytes(const ModelShape& s) {
  const std::int64_t qkv = static_cast<std::int64_t>(s.head_dim) * (s.heads + 2LL * s.kv_heads);
  const std::int64_t layer =
      packed_bytes(qkv, s.hidden) + packed_bytes(s.hidden, s.heads * s.head_dim) +
      2 * packed_bytes(s.intermediate, s.hidden) + packed_bytes(s.hidden, s.intermediate) +
      4 * (4LL * s.hidden + qkv + 2LL * s.intermediate + 2LL * s.head_dim);  // norms, biases
  const std::int64_t tables = s.tied_embeddings ? 1 : 2;
  return s.layers * layer + tables * packed_bytes(s.vocab, s.hidden) + 4LL * s.hidden;
}

// Buffers of the forward pass, each as wide as the widest step; see StepBuffers in model/step_buffers.h.
std::int64_t step_bytes(const ModelShape& s, const StepLimits& limits) {
  const std::int64_t qkv = static_cast<std::int64_t>(s.head_dim) * (s.heads + 2LL * s.kv_heads);
  const std::int64_t per_token = 4LL * s.hidden + 2LL * s.hidden + 4 * qkv + 2LL * s.heads * s.head_dim +
                                 4 * 2LL * s.intermediate + 2LL * s.intermediate + 64;
  const std::int64_t per_sample = 6LL * s.hidden + 4LL * s.vocab;
  return limits.max_query_tokens * per_token + limits.max_sampled_rows * per_sample +
         limits.max_context * 4LL * s.head_dim;
}

class Digest {
 public:
  Digest() : state_(XXH3_createState()) {
    NS_CHECK(state_ != nullptr, "out of memory");
    XXH3_128bits_reset(state_);
  }
  ~Digest() { XXH3_freeState(state_); }
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  // Length first, so that no two sequences of parts feed the same bytes.
  void add(std::string_view part) {
    std::array<unsigned char, 8> length{};
    for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(part.size() >> (8 * i));
    XXH3_128bits_update(state_, length.data(), length.size());
    XXH3_128bits_update(state_, part.data(), part.size());
  }
  std::string hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_);
    return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  }

 private:
  XXH3_state_t* state_;
};

void add_samples(Digest& digest, std::ifstream& in, const TensorInfo& tensor,
                 const std::filesystem::path& path) {
  const std::uint64_t size = std::min(tensor.bytes, kSampleBytes);
  std::string sample(size, '\0');
  for (const std::uint64_t at : {std::uint64_t{0}, (tensor.bytes - size) / 2, tensor.bytes - size}) {
    in.seekg(static_cast<std::streamoff>(tensor.offset + at));
    in.read(sample.data(), static_cast<std::streamsize>(size));
    if (!in) throw Error(fmt::format("{}: tensor \"{}\" cannot be read", path.string(), tensor.name));
    digest.add(sample);
  }
}

}  // namespace

// Head sizes that are no multiple of 16 are padded in the cache.
std::int64_t kv_block_bytes(const ModelShape& shape) {
  ModelShape padded = shape;
  padded.head_dim = (shape.head_dim + 15) / 16 * 16;
  return padded.kv_bytes_per_token() * kKvBlockTokens;
}

MemoryNeed bytes_needed(const ModelConfig& config, const StepLimits& limits) {
  return {.weights = weight_bytes(config.shape),
          .kv_cache = limits.kv_blocks * kv_block_bytes(config.shape),
          .step_buffers = step_bytes(config.shape, limits)};
}

ModelFiles open_model_files(const std::filesystem::path& directory) {
  ModelFiles files;
  files.directory = directory;
  files.config = read_model_config(directory);
  files.checkpoint = open_checkpoint(directory);
  files.weights = map_weights(files.config, files.checkpoint);
  return files;
}

std::string model_digest(const ModelFiles& files) {
  Digest digest;
  for (const char* name : {"config.json", "generation_config.json"}) {
    const auto path = files.directory / name;
    digest.add(std::filesystem::exists(path) ? read_small_file(path, kMaxConfigBytes) : std::string());
  }
  std::vector<const TensorInfo*> tensors;
  for (const WeightTensor& weight : files.weights)
    tensors.push_back(weight.tensor);  // by file and offset already
  int open = -1;
  std::ifstream in;
  for (const TensorInfo* tensor : tensors) {
    const CheckpointFile& file = files.checkpoint.files[static_cast<std::size_t>(tensor->file)];
    if (open != tensor->file) {
      in = std::ifstream(file.path, std::ios::binary);
      digest.add(file.header);
      open = tensor->file;
    }
    add_samples(digest, in, *tensor, file.path);
  }
  return digest.hex();
}

std::int64_t parameter_count(const std::vector<WeightTensor>& weights) {
  std::int64_t total = 0;
  for (const WeightTensor& weight : weights)
    total += weight.shape.rows * std::max<std::int64_t>(weight.shape.columns, 1);
  return total;
}

}  // namespace nightshift::model
