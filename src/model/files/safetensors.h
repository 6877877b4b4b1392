// SPDX-License-Identifier: Apache-2.0
// safetensors checkpoints, single file or sharded by model.safetensors.index.json: the headers only. Layout
// of a file: 8 bytes header length (little endian), a JSON header {name: {dtype, shape, data_offsets}}, then
// the tensors without gaps. Nothing in a header is believed before it is checked against the size of the
// file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/types.h"

namespace nightshift::model {

struct TensorInfo {
  std::string name;
  std::string dtype;                // as written: BF16, F16, F32, ...
  std::vector<std::int64_t> shape;  // row-major
  int file = 0;                     // index into Checkpoint::files
  std::uint64_t offset = 0;         // of the first byte, from the start of the file
  std::uint64_t bytes = 0;
};

struct CheckpointFile {
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::string header;  // the JSON text, kept for the digest
};

struct Checkpoint {
  std::vector<CheckpointFile> files;
  std::map<std::string, TensorInfo, std::less<>> tensors;

  const TensorInfo* find(std::string_view name) const;
  std::uint64_t tensor_bytes() const;
};

// Opens model.safetensors.index.json, else model.safetensors; consolidated*.safetensors and *.bin are left
// alone. Throws BadInput naming file and tensor: missing or truncated shards, offsets out of range, overlaps,
// gaps, byte counts that do not fit dtype and shape, tensors in another shard than the index says.
Checkpoint open_checkpoint(const std::filesystem::path& directory);

// DType of a tensor that holds weights; throws BadInput for any other (quantized or integer) element type.
DType weight_dtype(const TensorInfo& tensor, const Checkpoint& checkpoint);

}  // namespace nightshift::model
