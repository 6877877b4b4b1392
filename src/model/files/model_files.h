// SPDX-License-Identifier: Apache-2.0
// Door of the model files room: what can be known about a model directory without loading it, and without
// Kokkos, MPI or CUDA, so that the front end can check a job on a login node.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/files/config.h"
#include "model/files/families.h"
#include "model/files/rope.h"
#include "model/files/safetensors.h"
#include "model/files/weights.h"
#include "parallel/layout/layout.h"

namespace nightshift::model {

// What one rank's model must be able to hold at once. Fixed for a job.
struct StepLimits {
  std::int64_t max_context = 0;  // tokens of the longest sequence, prompt and answer
  int max_query_tokens = 0;      // of one step, all sequences together
  int max_sampled_rows = 0;      // sequences of one step that sample
  std::int64_t kv_blocks = 0;    // of kKvBlockTokens tokens
};

// Bytes of a replica of `degrees` ranks. The packed weights stand once per host, whatever the number of ranks
// there; KV cache and buffers are those of one rank.
struct MemoryNeed {
  std::int64_t weights = 0;
  std::int64_t kv_cache = 0;
  std::int64_t step_buffers = 0;
  std::int64_t on_host(int ranks) const { return weights + ranks * (kv_cache + step_buffers); }
  std::int64_t total() const { return on_host(1); }
};

// An estimate from shapes alone, padding of the packed layout included; what Model::load allocates stays
// within it.
MemoryNeed bytes_needed(const ModelConfig& config, const StepLimits& limits,
                        const parallel::Degrees& degrees = {});
// The same of one rank on a GPU: its part of the weights in the base layout (the shift layout's lies within),
// and in step_buffers also what kernels and libraries need for themselves.
MemoryNeed gpu_bytes_needed(const ModelConfig& config, const StepLimits& limits,
                            const parallel::Degrees& degrees = {});
// What kernels on a GPU write and read again within one operation, at most; the same on all ranks.
std::int64_t gpu_scratch_bytes(const ModelShape& shape, const StepLimits& limits,
                               const parallel::Degrees& degrees = {});
// K and V of kKvBlockTokens tokens, all layers, of the heads that one rank holds.
std::int64_t kv_block_bytes(const ModelShape& shape, const parallel::Degrees& degrees = {});

// A model directory, opened and checked: configuration, headers, and the role of every tensor.
struct ModelFiles {
  std::filesystem::path directory;
  ModelConfig config;
  Checkpoint checkpoint;
  std::vector<WeightTensor> weights;  // points into checkpoint: a ModelFiles is moved, never copied

  ModelFiles() = default;
  ModelFiles(ModelFiles&&) = default;
  ModelFiles& operator=(ModelFiles&&) = default;
  ModelFiles(const ModelFiles&) = delete;
  ModelFiles& operator=(const ModelFiles&) = delete;
};
ModelFiles open_model_files(const std::filesystem::path& directory);

// Identity of the model for the provenance and for resuming: 32 hex digits, XXH3-128 over config.json,
// generation_config.json, every header, and three samples of every tensor (first, middle and last 4 KiB). The
// same on every machine and independent of how the weights are loaded.
std::string model_digest(const ModelFiles& files);

// Parameters in the checkpoint, norms and biases included, tied ones once.
std::int64_t parameter_count(const std::vector<WeightTensor>& weights);

}  // namespace nightshift::model
