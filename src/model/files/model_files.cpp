// SPDX-License-Identifier: Apache-2.0
#include "model/files/model_files.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "core/check.h"
#include "core/reduction.h"
#include "model/files/json_object.h"

namespace nightshift::model {

namespace {

constexpr std::int64_t kPanelRows = 64;  // packed matrices round their rows up to whole panels
constexpr std::int64_t kPage = 4096;
constexpr std::uint64_t kSampleBytes = 4096;
constexpr std::uint64_t kMaxConfigBytes = 8u << 20;

std::int64_t up_to_panels(std::int64_t rows) {
  return (rows + kPanelRows - 1) / kPanelRows * kPanelRows;
}
std::int64_t packed_bytes(std::int64_t rows, std::int64_t columns) {
  return up_to_panels(rows) * columns * 2;
}

// Columns of the fused QKV product that one of P ranks owns: its query heads, its KV heads twice.
std::int64_t qkv_width(const ModelShape& s, int chunks) {
  return (s.heads / chunks + 2LL * std::max(s.kv_heads, chunks) / chunks) * s.head_dim;
}

// The most columns of the MLP's inner width that one of `tensor` ranks sums; uneven where units do not
// divide.
std::int64_t widest_mlp_part(const ModelShape& s, int tensor) {
  const ReductionBounds bounds = mlp_bounds(s);
  std::int64_t widest = 0;
  for (int rank = 0; rank < tensor; ++rank) {
    const parallel::Range shards = parallel::shards_of(rank, tensor);
    widest = std::max(widest, bounds[static_cast<std::size_t>(shards.end)] -
                                  bounds[static_cast<std::size_t>(shards.begin)]);
  }
  return widest;
}

// QKV rows stand in owner order, every owner's filled up to whole panels; gate and up rows take turns in half
// panels.
std::int64_t weight_bytes(const ModelShape& s, int chunks) {
  const std::int64_t qkv = chunks * up_to_panels(qkv_width(s, chunks));
  const std::int64_t gate_up = (s.intermediate + kMlpUnit - 1) / kMlpUnit * kMlpUnit * 2;
  const std::int64_t layer = packed_bytes(qkv, s.hidden) + packed_bytes(s.hidden, s.heads * s.head_dim) +
                             packed_bytes(gate_up, s.hidden) + packed_bytes(s.hidden, s.intermediate) +
                             4 * (4LL * s.hidden + qkv + gate_up + 2LL * s.head_dim);  // norms, biases
  const std::int64_t tables = s.tied_embeddings ? 1 : 2;
  const std::int64_t pieces = s.layers * 12LL + 3;  // each begins at a page
  return s.layers * layer + tables * packed_bytes(s.vocab, s.hidden) + 4LL * s.hidden + kPage * pieces;
}

// Buffers of the forward pass, each as wide as the widest step of either layout; see StepBuffers in
// model/step_buffers.h. T query tokens, S sampling sequences. A rank computes a slice of all columns or all
// rows of its columns, so that most buffers shrink with P.
std::int64_t step_bytes(const ModelShape& s, const StepLimits& limits, const parallel::Degrees& degrees) {
  const int chunks = degrees.ranks();
  const bool alone = chunks == 1;
  const std::int64_t tokens = limits.max_query_tokens, samples = limits.max_sampled_rows;
  const std::int64_t slice = (tokens + degrees.sequence - 1) / degrees.sequence;  // of a base layout's rank
  const std::int64_t rows = slice * degrees.sequence;
  const std::int64_t qkv = up_to_panels(qkv_width(s, chunks));
  const std::int64_t heads = static_cast<std::int64_t>(s.heads) / chunks * s.head_dim;
  const std::int64_t units = (s.vocab + kPanelRows - 1) / kPanelRows;
  const std::int64_t vocab = alone ? s.vocab : (units + chunks - 1) / chunks * kPanelRows;

  std::int64_t activated = slice * widest_mlp_part(s, degrees.tensor);  // [T / sequence, I / tensor]
  if (kReductionShards % chunks == 0) activated = std::max(activated, tokens * widest_mlp_part(s, chunks));
  std::int64_t bytes = tokens * (6LL * s.hidden + 64)  // residual [T, hidden] fp32, normed bf16, ids
                       + rows * (4 + 2) * qkv          // fused product fp32; q, k, v bf16 to their owners
                       + rows * 2 * heads              // attended bf16
                       + 2 * activated                 // bf16
                       + samples * (6LL * s.hidden + 4 * vocab + 64);  // sampled rows, logits
  if (!alone) {
    bytes += rows * 2 * (qkv + 2 * heads)              // what the exchanges receive, and in order
             + 2 * (tokens + chunks) * 4LL * s.hidden  // subtree sums, own and received
             + samples * 4 * vocab                     // logits of other parts of the vocabulary
             + 4LL * up_to_panels(s.vocab);            // one full row of them
  }
  return bytes + limits.max_context * 4LL * s.head_dim;  // rotary tables
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
std::int64_t kv_block_bytes(const ModelShape& shape, const parallel::Degrees& degrees) {
  ModelShape part = shape;
  part.head_dim = (shape.head_dim + 15) / 16 * 16;
  part.kv_heads = std::max(shape.kv_heads, degrees.ranks()) / degrees.ranks();
  return part.kv_bytes_per_token() * kKvBlockTokens;
}

MemoryNeed bytes_needed(const ModelConfig& config, const StepLimits& limits,
                        const parallel::Degrees& degrees) {
  return {.weights = weight_bytes(config.shape, degrees.ranks()),
          .kv_cache = limits.kv_blocks * kv_block_bytes(config.shape, degrees),
          .step_buffers = step_bytes(config.shape, limits, degrees)};
}

// No two at once, fp32: sums of reduction shards; gates and ups before they meet; attention of segments of
// long contexts, some for every sequence, in tiles of 16 rows.
std::int64_t gpu_scratch_bytes(const ModelShape& s, const StepLimits& limits,
                               const parallel::Degrees& degrees) {
  const std::int64_t rows = limits.max_query_tokens;
  const std::int64_t kv_heads = std::max(s.kv_heads, degrees.ranks()) / degrees.ranks();
  return 4 * std::max<std::int64_t>({rows * kReductionShards * s.hidden,
                                     rows * 2 * up_to_panels(widest_mlp_part(s, degrees.tensor)),
                                     3LL * limits.max_sampled_rows * kv_heads * 16 * (s.head_dim + 2)});
}

MemoryNeed gpu_bytes_needed(const ModelConfig& config, const StepLimits& limits,
                            const parallel::Degrees& degrees) {
  constexpr std::int64_t kLibraries = std::int64_t{768} << 20;  // cuBLASLt, graphs, staging
  constexpr std::int64_t kExchanges = std::int64_t{512} << 20;  // NCCL's channels
  const ModelShape& s = config.shape;
  const bool several = degrees.ranks() > 1;
  MemoryNeed need = bytes_needed(config, limits, degrees);
  need.weights = need.weights / degrees.tensor + 64LL * s.hidden * s.layers;  // norms stand on every rank
  need.kv_cache += kv_block_bytes(s, degrees);                                // for rows that fill up a step
  need.step_buffers += gpu_scratch_bytes(s, limits, degrees) + kLibraries;
  if (several)
    need.step_buffers += kExchanges + 4LL * limits.max_sampled_rows * s.vocab;  // whole rows of logits
  return need;
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
