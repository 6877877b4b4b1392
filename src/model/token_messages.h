// SPDX-License-Identifier: Apache-2.0
// Sampled tokens on their way between the ranks that chose them.
#pragma once

#include <span>

#include "core/types.h"
#include "parallel/parallel.h"

namespace nightshift::model {

// Every rank of the group has the tokens of its slice (parallel::slice_of) of `rows`; after the call all have
// all of them. tokens: one per row. Collective over the group.
void share_slices(const parallel::Communicator& group, std::span<const PlannedSequence* const> rows,
                  std::span<SampledToken> tokens);

}  // namespace nightshift::model
