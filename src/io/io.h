// SPDX-License-Identifier: Apache-2.0
// The io room: prompts come in as HDF5, finished answers go to journals at once and into one HDF5 file at the
// end.
//
//   prompts.h   PromptReader: streamed rows of a "prompts/1" file, per-row errors kept in the row
//   journal.h   ResultRecord, ResultJournal (append, group commit), JournalIndex (what is durable, and where)
//   manifest.h  what a journal belongs to, and whether a new run may continue it
//   lock.h      one launcher per output, also across hosts
//   results.h   write_results: journals -> "results/1" in input order, verified before it gets its name
//   jsonl.h     OpenAI batch lines <-> HDF5
//   inspect.h   what is in a file, for people and programs
//
// Errors: BadInput where the user's file is wrong, Error where the machine fails (disk full, I/O error).
// HDF5 calls of one process run one at a time behind one lock, because HDF5 is usually built without threads.
#pragma once

#include "io/inspect.h"
#include "io/journal.h"
#include "io/jsonl.h"
#include "io/lock.h"
#include "io/manifest.h"
#include "io/prompts.h"
#include "io/results.h"
