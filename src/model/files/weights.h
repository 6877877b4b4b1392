// SPDX-License-Identifier: Apache-2.0
// Which tensor of a checkpoint plays which role: the name table of the family, applied and checked.
#pragma once

#include <vector>

#include "model/files/config.h"
#include "model/files/families.h"
#include "model/files/safetensors.h"

namespace nightshift::model {

struct WeightTensor {
  Weight weight;
  int layer = -1;  // -1: once per model
  WeightShape shape;
  DType dtype = DType::bf16;
  const TensorInfo* tensor = nullptr;  // into the checkpoint
};

// All weights of the model, ordered by file and offset, so that reading them in turn reads the checkpoint
// front to back. Throws BadInput naming the tensors that are missing, have another shape, or are there but
// would be ignored although they belong to the language model. Left aside: cached RoPE tables and attention
// masks, layers past num_hidden_layers and mtp.* (multi-token prediction), a head beside tied embeddings,
// and, in multimodal wrappers, everything outside the language model.
std::vector<WeightTensor> map_weights(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace nightshift::model
