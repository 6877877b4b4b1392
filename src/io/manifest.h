// SPDX-License-Identifier: Apache-2.0
// manifest.json of a journal directory: which job the journal belongs to, and whether a new run may continue
// it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nightshift::io {

struct Manifest {
  int version = 1;
  std::string input_path;
  std::string input_digest;     // InputDigest::text()
  std::string model_digest;     // weights, tokenizer and template
  std::string sampling_digest;  // every job setting that can change an answer
  std::string job_json;         // the resolved job, a JSON object

  // Names the answers: equal for runs that give the same bytes. Journal files carry it.
  std::uint64_t fingerprint() const;
};

std::string journal_directory(const std::string& output);  // answers.h5 -> answers.h5.journal

// Atomic: a reader sees the old manifest or the new one, also after a crash. Creates the directory.
void write_manifest(const std::string& directory, const Manifest& manifest);
std::optional<Manifest> read_manifest(const std::string& directory);  // none if absent; Error if unreadable

// What stands against continuing `before` as `now`, one line each; empty when it may continue. Geometry,
// paths and other settings that leave the answers as they are may differ.
std::vector<std::string> resume_conflicts(const Manifest& before, const Manifest& now);
// BadInput with that list, and what to do.
void check_resumable(const Manifest& before, const Manifest& now);

}  // namespace nightshift::io
