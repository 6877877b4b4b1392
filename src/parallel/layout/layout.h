// SPDX-License-Identifier: Apache-2.0
// Who holds what inside a replica: pure arithmetic, no MPI, so that the front end, the planner and the tests
// see the same map as the ranks.
//
// A replica has P = sequence x tensor ranks. Its base layout splits tokens over `sequence` ranks (Ulysses
// sequence parallelism, Jacobs et al. 2023) and weights over `tensor` ranks (Shoeybi et al. 2019). Its shift
// layout splits weights over all P (Shift Parallelism, Hidayetoglu et al. 2025, arXiv 2509.16495). Rank
// g = s * tensor + t owns chunk t * sequence + s of the P equal chunks of heads, MLP columns and vocabulary
// in both layouts; so the KV cache stays where it is, and what a rank needs in the shift layout is part of
// what it has in the base layout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/reduction.h"
#include "core/types.h"

namespace nightshift::parallel {

enum class Layout : std::uint8_t { base, shift };
constexpr const char* name_of(Layout layout) {
  return layout == Layout::base ? "base" : "shift";
}

struct Degrees {
  int sequence = 1;
  int tensor = 1;
  constexpr int ranks() const { return sequence * tensor; }
  bool operator==(const Degrees&) const = default;
};

struct Place {  // of a rank in the base layout
  int s = 0;    // its slice of the tokens
  int t = 0;    // its part of the weights
};
constexpr Place place_of(int rank, const Degrees& degrees) {
  return {rank / degrees.tensor, rank % degrees.tensor};
}
// The rank's place in the shift layout, and the chunk that it owns in both.
constexpr int chunk_of(const Place& place, const Degrees& degrees) {
  return place.t * degrees.sequence + place.s;
}

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  constexpr std::int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// Part i of n things cut into `parts` runs of consecutive ones; the first n % parts runs hold one more.
// Tokens of a step over the sequence ranks.
constexpr Range slice_of(std::int64_t n, int parts, int i) {
  const std::int64_t each = n / parts, more = n % parts;
  const std::int64_t begin = i * each + (i < more ? i : more);
  return {begin, begin + each + (i < more ? 1 : 0)};
}

// Query heads of chunk c of P; P divides heads.
constexpr Range heads_of(int chunk, int chunks, int heads) {
  const std::int64_t each = heads / chunks;
  return {chunk * each, (chunk + 1) * each};
}
// KV heads of chunk c of P: kv_heads / P of them, or, where there are fewer than ranks, the one that its
// query heads share, held by P / kv_heads ranks.
constexpr Range kv_heads_of(int chunk, int chunks, int kv_heads) {
  if (kv_heads >= chunks) return heads_of(chunk, chunks, kv_heads);
  const std::int64_t one = chunk / (chunks / kv_heads);
  return {one, one + 1};
}
// Rows of embedding and head of chunk c of P, cut at multiples of `unit` (a panel of the packed matrix); the
// last may be short or empty.
constexpr Range vocab_of(int chunk, int chunks, std::int64_t vocab, std::int64_t unit) {
  const Range units = slice_of((vocab + unit - 1) / unit, chunks, chunk);
  return {units.begin * unit < vocab ? units.begin * unit : vocab,
          units.end * unit < vocab ? units.end * unit : vocab};
}
// The virtual reduction shards that chunk c of P sums; P divides kReductionShards.
constexpr Range shards_of(int chunk, int chunks) {
  const std::int64_t each = kReductionShards / chunks;
  return {chunk * each, (chunk + 1) * each};
}

// What a model allows. heads % P == 0, kv_heads and P divide one another, tensor divides kReductionShards;
// shifting also wants P to divide kReductionShards, for it is the tensor degree then.
bool is_legal(const ModelShape& shape, const Degrees& degrees, bool shifts);
// Every legal pair with at most `most_ranks` ranks, by ranks, then by tensor degree.
std::vector<Degrees> legal_degrees(const ModelShape& shape, int most_ranks, bool shifts);
// Throws BadInput naming the condition that fails and the legal degrees of this model.
void check_degrees(const ModelShape& shape, const Degrees& degrees, bool shifts);

}  // namespace nightshift::parallel
