// SPDX-License-Identifier: Apache-2.0
// Which prompts kill their ranks: found by halving (the idea of delta debugging, Zeller and Hildebrandt 2002,
// for one cause at a time). Pure: rows in, rows out.
//
//   first failure    the rows in work are noted, the job goes on with everything
//   second with a    rows that were in work at both are held back; the rest of the job completes
//   row in common
//   then             the held rows run alone: all of them, and where they fail the half of those that were in
//                    work, again and again, until one row is alone with the failure
//   a lone row       that has been in work at `tries` failures at least is the culprit
//
// What was held beside a culprit runs together again: halves that were never tried are under no suspicion.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "core/types.h"

namespace nightshift::runtime {

// What a start of the ranks works on.
struct Scope {
  bool only = false;         // true: nothing but `rows`; false: everything but `rows`
  std::set<PromptRow> rows;  // no rows, only = false: the whole job
  bool whole() const { return !only && rows.empty(); }
  bool contains(PromptRow row) const { return rows.contains(row) == only; }

  std::string to_json() const;
  static Scope from_json(const std::string& text);
};

// In the job's folder, from the launcher to the ranks. Without a file: the whole job.
void write_scope(const std::filesystem::path& dir, const Scope& scope);
Scope read_scope(const std::filesystem::path& dir);

class Suspects {
 public:
  struct Verdict {
    std::optional<PromptRow> culprit;
    bool narrower = false;  // the failure has told something: the search goes on with fewer rows
  };

  // Of the start that failed in `scope`: which of its rows were in work and have no answer.
  Verdict failed(const Scope& scope, std::set<PromptRow> in_work, int tries);
  // A culprit that has been set aside.
  void convict(PromptRow row);
  // A culprit that is not believed to be one yet: the others that are held run first.
  void spare(PromptRow row);
  // Rows that have an answer are innocent.
  void acquit(const std::function<bool(PromptRow)>& answered);

  bool any() const { return !held_.empty(); }
  const std::set<PromptRow>& held() const { return held_; }
  Scope rest() const { return {false, held_}; }  // everything that is above suspicion
  Scope next() const;                            // the next group of suspects to run apart

  // They outlive the launcher in the job's folder; a file that cannot be read is none.
  void save(const std::filesystem::path& dir) const;
  static Suspects load(const std::filesystem::path& dir);

 private:
  Verdict failed_apart(const std::set<PromptRow>& in_work, int tries);

  std::map<PromptRow, int> failures_;  // of rows without an answer: how often in work when ranks died
  std::set<PromptRow> held_;           // back from the rest of the job
  std::set<PromptRow> focus_;          // of them, those among which the culprit must be; empty: not known
};

}  // namespace nightshift::runtime
