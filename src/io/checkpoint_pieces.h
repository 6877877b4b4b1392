// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "io/checkpoints.h"
#include "io/journal_source.h"

namespace nightshift::io {

struct Checkpoints::Pieces {
  std::vector<JournalFile> files;  // those alone that have pieces
  std::vector<Entry> entries;      // ordered by (row, sample)
};

}  // namespace nightshift::io
