// SPDX-License-Identifier: Apache-2.0
#include "parallel/layout/layout.h"

#include <algorithm>

#include "core/check.h"

namespace nightshift::parallel {
namespace {

bool divide_one_another(int a, int b) {
  return a % b == 0 || b % a == 0;
}

// The condition that fails, in words; empty when the degrees are legal.
std::string objection(const ModelShape& shape, const Degrees& degrees, bool shifts) {
  if (degrees.sequence < 1 || degrees.tensor < 1)
    return fmt::format("parallel degrees {} x {} (sequence x tensor): each must be at least 1",
                       degrees.sequence, degrees.tensor);
  const int ranks = degrees.ranks();
  if (shape.heads % ranks != 0 || !divide_one_another(shape.kv_heads, ranks))
    return fmt::format(
        "{} heads and {} KV heads cannot be shared by {} ranks (sequence {} x tensor {}): the ranks must "
        "divide the heads, and divide the KV heads or be divided by them",
        shape.heads, shape.kv_heads, ranks, degrees.sequence, degrees.tensor);
  if (kReductionShards % degrees.tensor != 0)
    return fmt::format("tensor degree {} does not divide the {} shards of a reduction", degrees.tensor,
                       kReductionShards);
  if (shifts && kReductionShards % ranks != 0)
    return fmt::format(
        "a replica of {} ranks (sequence {} x tensor {}) cannot shift: its tensor degree would be {}, which "
        "does not divide the {} shards of a reduction",
        ranks, degrees.sequence, degrees.tensor, ranks, kReductionShards);
  return {};
}

}  // namespace

bool is_legal(const ModelShape& shape, const Degrees& degrees, bool shifts) {
  return objection(shape, degrees, shifts).empty();
}

std::vector<Degrees> legal_degrees(const ModelShape& shape, int most_ranks, bool shifts) {
  std::vector<Degrees> legal;
  for (int ranks = 1; ranks <= std::min(most_ranks, shape.heads); ++ranks)
    for (int tensor = 1; tensor <= ranks; ++tensor) {
      const Degrees degrees{ranks / tensor, tensor};
      if (ranks % tensor == 0 && is_legal(shape, degrees, shifts)) legal.push_back(degrees);
    }
  return legal;
}

void check_degrees(const ModelShape& shape, const Degrees& degrees, bool shifts) {
  const std::string failed = objection(shape, degrees, shifts);
  if (failed.empty()) return;
  constexpr int kListed = 16;  // ranks of a large node; longer lists help nobody who asked for less
  std::string remedy;
  for (const Degrees& d : legal_degrees(shape, std::max(kListed, degrees.ranks()), shifts))
    remedy += fmt::format("{}{}x{}", remedy.empty() ? "legal for this model: " : ", ", d.sequence, d.tensor);
  remedy += " (sequence x tensor)";
  if (shifts && is_legal(shape, degrees, false)) remedy += "; or set shift = \"never\"";
  throw BadInput(failed, remedy);
}

}  // namespace nightshift::parallel
