// SPDX-License-Identifier: Apache-2.0
#include "model/shard.h"

#include "core/check.h"
#include "core/reduction.h"

namespace nightshift::model {

namespace {

// The reduction shards of part t of `tensor`, as offsets from the first one's begin.
std::vector<std::int64_t> relative(const ReductionBounds& bounds, const parallel::Range& shards) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = shards.begin; i <= shards.end; ++i)
    out.push_back(bounds[static_cast<std::size_t>(i)] - bounds[static_cast<std::size_t>(shards.begin)]);
  return out;
}

// An empty range begins at 0, where every matrix may be cut.
parallel::Range normal(const parallel::Range& range) {
  return range.size() == 0 ? parallel::Range{} : range;
}

parallel::Range columns_of(const ReductionBounds& bounds, const parallel::Range& shards) {
  return {bounds[static_cast<std::size_t>(shards.begin)], bounds[static_cast<std::size_t>(shards.end)]};
}

void join_groups(Shard& shard, const parallel::DeviceMesh& mesh, const LayoutGroups& groups,
                 parallel::Layout layout) {
  const parallel::Communicator& sequence = mesh.sequence_group(layout);
  const parallel::Communicator& tensor = mesh.tensor_group(layout);
  shard.sequence = sequence.size();
  shard.s = sequence.rank();
  shard.tensor = tensor.size();
  shard.t = tensor.rank();
  shard.sequence_group = groups.sequence(layout);
  shard.tensor_group = groups.tensor(layout);
  NS_CHECK((shard.sequence_group != nullptr) == (shard.sequence > 1) &&
               (shard.tensor_group != nullptr) == (shard.tensor > 1),
           "{} layout: its groups were not made", name_of(layout));
}

}  // namespace

WeightParts weight_parts(const ModelShape& shape, int chunks, int tensor, int t) {
  const int each = chunks / tensor, first = t * each, last = first + each - 1;  // chunks of the part
  const auto vocabulary = [&](int chunk) {
    return parallel::vocab_of(chunk, chunks, shape.vocab, kernels::kPanelRows);
  };
  const std::int64_t chunk_rows = qkv_chunk(shape, chunks).rows;
  return {.qkv_rows = {first * chunk_rows, (last + 1) * chunk_rows},
          .o_columns = {parallel::heads_of(first, chunks, shape.heads).begin * shape.head_dim,
                        parallel::heads_of(last, chunks, shape.heads).end * shape.head_dim},
          .mlp_columns = normal(columns_of(nightshift::mlp_bounds(shape), parallel::shards_of(t, tensor))),
          .vocabulary = normal({vocabulary(first).begin, vocabulary(last).end})};
}

Shard make_shard(const ModelShape& shape, const parallel::DeviceMesh* mesh, const LayoutGroups& groups,
                 parallel::Layout layout) {
  Shard shard;
  if (mesh != nullptr) join_groups(shard, *mesh, groups, layout);
  const int chunks = mesh == nullptr ? 1 : mesh->degrees().ranks();
  NS_CHECK(shard.tensor * shard.sequence == chunks && kReductionShards % shard.tensor == 0,
           "{} layout: {} x {} ranks of {}", name_of(layout), shard.sequence, shard.tensor, chunks);

  static_cast<WeightParts&>(shard) = weight_parts(shape, chunks, shard.tensor, shard.t);
  const parallel::Range shards = parallel::shards_of(shard.t, shard.tensor);
  shard.o_bounds = relative(attention_bounds(shape), shards);
  shard.mlp_bounds = relative(nightshift::mlp_bounds(shape), shards);
  NS_CHECK(columns_of(attention_bounds(shape), shards) == shard.o_columns,
           "{} heads: the reduction shards of part {} of {} are not its heads", shape.heads, shard.t,
           shard.tensor);
  return shard;
}

WeightParts held_parts(const ModelShape& shape, const parallel::DeviceMesh* mesh, kernels::Device device) {
  if (mesh == nullptr) return weight_parts(shape, 1, 1, 0);
  const bool whole = device == kernels::Device::cpu;
  const parallel::Degrees& degrees = mesh->degrees();
  return weight_parts(shape, degrees.ranks(), whole ? 1 : degrees.tensor, whole ? 0 : mesh->place().t);
}

std::int64_t matrix_bytes(const ModelShape& shape, const Shard& shard, kernels::Backend& backend) {
  const auto bytes = [&](std::int64_t n, std::int64_t k) {
    return n == 0 || k == 0 ? 0 : static_cast<std::int64_t>(backend.packed_bytes(n, k));
  };
  const std::int64_t mlp = shard.mlp_columns.size();
  const std::int64_t layer = bytes(shard.qkv_rows.size(), shape.hidden) +
                             bytes(shape.hidden, shard.o_columns.size()) +
                             bytes(kernels::gate_up_rows(mlp), shape.hidden) + bytes(shape.hidden, mlp);
  const std::int64_t table = bytes(shard.vocabulary.size(), shape.hidden);
  return shape.layers * layer + (shape.tied_embeddings ? 1 : 2) * table;
}

}  // namespace nightshift::model
