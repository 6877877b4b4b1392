// SPDX-License-Identifier: Apache-2.0
// Owner order of the fused QKV matrix.
#include <algorithm>

#include "core/check.h"
#include "model/packed_weights.h"

namespace nightshift::model {

namespace {

// The part of a chunk that one of q, k, v fills, and which heads of the weight stand there.
struct Part {
  std::int64_t offset;  // rows into the chunk
  parallel::Range heads;
};

Part part_of(const ModelShape& shape, const QkvChunk& chunk, int chunks, int c, Weight weight) {
  const std::int64_t dim = shape.head_dim;
  if (weight == Weight::q || weight == Weight::q_bias) return {0, parallel::heads_of(c, chunks, shape.heads)};
  const bool v = weight == Weight::v || weight == Weight::v_bias;
  return {(chunk.heads + (v ? chunk.kv_heads : 0)) * dim, parallel::kv_heads_of(c, chunks, shape.kv_heads)};
}

}  // namespace

QkvChunk qkv_chunk(const ModelShape& shape, int chunks) {
  QkvChunk chunk;
  chunk.heads = static_cast<int>(parallel::heads_of(0, chunks, shape.heads).size());
  chunk.kv_heads = static_cast<int>(parallel::kv_heads_of(0, chunks, shape.kv_heads).size());
  const std::int64_t rows = static_cast<std::int64_t>(chunk.heads + 2 * chunk.kv_heads) * shape.head_dim;
  chunk.rows = (rows + kernels::kPanelRows - 1) / kernels::kPanelRows * kernels::kPanelRows;
  return chunk;
}

void place_qkv_rows(const ModelShape& shape, int chunks, Weight weight, std::int64_t first_row,
                    std::int64_t rows, const PlaceRows& place) {
  const QkvChunk chunk = qkv_chunk(shape, chunks);
  const std::int64_t end = first_row + rows;
  for (int c = 0; c < chunks; ++c) {
    const Part part = part_of(shape, chunk, chunks, c, weight);
    const std::int64_t begin = part.heads.begin * shape.head_dim;
    const std::int64_t from = std::max(first_row, begin);
    const std::int64_t to = std::min(end, part.heads.end * shape.head_dim);
    if (from < to) place(c * chunk.rows + part.offset + from - begin, from, to - from);
  }
}

}  // namespace nightshift::model
