// SPDX-License-Identifier: Apache-2.0
// What stands at a job's output, and what a start of the job does about it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "io/manifest.h"

namespace nightshift::runtime {

enum class Start {
  fresh,     // nothing there, or --restart
  resume,    // a journal of the same job: continue
  complete,  // the finished result of the same job: nothing to do
};

// The manifest of a job whose model.max_context is resolved. The digests name the content of the input file
// and of the model directory.
io::Manifest manifest_of(const Job& job, const std::string& input_digest, const std::string& model_digest);

// Reads, changes nothing. `restart`: what is there will be set aside. BadInput when the journal or the result
// belongs to another job, or the output is a file that is none of ours; it names what differs and the ways
// out.
Start decide_start(const Job& job, const io::Manifest& now, bool restart);

// The kernel set that the journal's answers were computed with; empty when no start has said so yet. One job
// keeps to one set, because bytes are equal within a set only.
std::string kernels_in_use(const Job& job);

// Renames result and journal to NAME.bak-<UTC time>; returns the new names. Nothing is deleted.
std::vector<std::filesystem::path> set_aside(const Job& job);

// The root attributes of a result; nullopt when the file has none.
struct ResultRoot {
  std::string provenance;  // JSON
  std::string summary;     // JSON
};
std::optional<ResultRoot> read_result_root(const std::filesystem::path& result);

io::Manifest manifest_in(const std::string& provenance);  // of the job that wrote it

}  // namespace nightshift::runtime
