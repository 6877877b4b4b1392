// SPDX-License-Identifier: Apache-2.0
// A job as one or more Slurm jobs: a template becomes a batch script, options become sbatch's. Pure, but for
// reading the template.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"

namespace nightshift::runtime {

struct Submission {
  std::string job_name;
  std::filesystem::path program;               // nightshift itself
  std::vector<std::string> arguments;          // of `nightshift run`
  std::vector<std::filesystem::path> inputs;   // of an array: one task each
  std::filesystem::path output;                // of the job; an array's results and the logs stand beside it
  std::map<std::string, std::string> options;  // of sbatch: "time" -> "2:00:00"
  std::vector<std::string> extra;              // words for sbatch as they are
};

// The templates that come with nightshift, in order: single, multi, array, preemptible.
const std::vector<std::string>& template_names();

// A name among those, in `folder`, or any word with a '/' or the ending .sbatch: a file of the site's own.
// BadInput where there is no such file.
std::filesystem::path find_template(const std::string& name, const std::filesystem::path& folder);

// The batch script: every @WORD@ of the template filled in, quoted for the shell. Words: @NIGHTSHIFT@ the
// program, @ARGUMENTS@ of `run`, @INPUTS@ and @OUTPUTS@ the settings of an array's tasks (words of a bash
// array). BadInput for another @WORD@, and when @INPUTS@ and the submission's inputs do not go together.
std::string render(const std::string& text, const std::string& template_name, const Submission& submission);

// The command that reads the script from its standard input and prints the job's id. `after`: the jobs before
// it in a chain, which it follows unless one of them has finished the work. All of them: a job that Slurm
// dropped counts as one that did not succeed, so that behind it the chain would go on.
std::vector<std::string> sbatch_command(const Submission& submission,
                                        const std::vector<std::string>& after = {});

// Result of an array's task: answers.h5 and part-07.jsonl make answers-part-07.h5. BadInput where two inputs
// would make the same.
std::vector<std::filesystem::path> array_outputs(const std::filesystem::path& output,
                                                 const std::vector<std::filesystem::path>& inputs);

// What `sbatch --parsable` prints, "1234" or "1234;cluster": the id. nullopt where it is none.
std::optional<std::string> parse_job_id(const std::string& printed);

}  // namespace nightshift::runtime
