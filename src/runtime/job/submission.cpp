// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/submission.h"

#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/text.h"
#include "runtime/job/shell.h"

namespace nightshift::runtime {
namespace {

namespace fs = std::filesystem;

std::string quoted_words(const std::vector<std::string>& words) {
  std::vector<std::string> quoted;
  for (const std::string& word : words) quoted.push_back(shell_quoted(word));
  return fmt::format("{}", fmt::join(quoted, " "));
}

// A TOML string whatever is in it: `--set job.input=7` would be a number.
std::string setting(const std::string& key, const fs::path& value) {
  std::string text;
  for (const char c : value.string()) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return fmt::format("{}=\"{}\"", key, text);
}

std::string settings(const std::string& key, const std::vector<fs::path>& values) {
  std::vector<std::string> words;
  for (const fs::path& value : values) words.push_back(setting(key, value));
  return quoted_words(words);
}

std::map<std::string, std::string> words_of(const Submission& submission) {
  return {{"NIGHTSHIFT", shell_quoted(submission.program.string())},
          {"ARGUMENTS", quoted_words(submission.arguments)},
          {"INPUTS", settings("job.input", submission.inputs)},
          {"OUTPUTS", settings("job.output", array_outputs(submission.output, submission.inputs))}};
}

bool is_word_character(char c) {
  return (c >= 'A' && c <= 'Z') || c == '_';
}

// The next @WORD@ at or after `from`: its first '@' and the one past its last.
std::optional<std::pair<std::size_t, std::size_t>> next_word(const std::string& text, std::size_t from) {
  for (std::size_t at = text.find('@', from); at != std::string::npos; at = text.find('@', at + 1)) {
    std::size_t end = at + 1;
    while (end < text.size() && is_word_character(text[end])) ++end;
    if (end > at + 1 && end < text.size() && text[end] == '@') return std::pair{at, end + 1};
  }
  return std::nullopt;
}

void check_inputs(bool is_array, const std::string& template_name, const Submission& submission) {
  if (is_array && submission.inputs.empty()) {
    throw BadInput(fmt::format("template {} runs one task for each input, and there is none", template_name),
                   "name them: --input part-00.jsonl --input part-01.jsonl");
  }
  if (!is_array && !submission.inputs.empty()) {
    throw BadInput(fmt::format("--input is for arrays, and template {} has no @INPUTS@", template_name),
                   "take --template array, or set the job's own input with --set job.input=FILE");
  }
}

// In the names of log files % begins a pattern of Slurm's.
std::string without_patterns(const std::string& path) {
  std::string out;
  for (const char c : path) out += c == '%' ? std::string("%%") : std::string(1, c);
  return out;
}

// Slurm takes a name as it is, but shows it in tables and, by default, in file names.
std::string log_file(const Submission& submission) {
  const std::string stem = (submission.output.parent_path() / submission.output.stem()).string();
  return without_patterns(stem) + (submission.inputs.empty() ? "-%j.log" : "-%A_%a.log");
}

}  // namespace

const std::vector<std::string>& template_names() {
  static const std::vector<std::string> names{"single", "multi", "array", "preemptible"};
  return names;
}

fs::path find_template(const std::string& name, const fs::path& folder) {
  const bool path = name.find('/') != std::string::npos || name.ends_with(".sbatch");
  const std::vector<std::string>& names = template_names();
  if (!path && std::find(names.begin(), names.end(), name) == names.end()) {
    const std::vector<std::string_view> views(names.begin(), names.end());
    const std::string_view close = nearest(name, views);
    throw BadInput(
        fmt::format("no template {}", name),
        fmt::format("{}there are {}, and any file by its path",
                    close.empty() ? "" : fmt::format("did you mean {}? ", close), fmt::join(names, ", ")));
  }
  const fs::path file = path ? fs::path(name) : folder / (name + ".sbatch");
  if (!fs::is_regular_file(file)) {
    throw BadInput(fmt::format("no template {}", file.string()),
                   path ? "--template names a file or one of the templates that come with nightshift"
                        : "the templates are installed in share/nightshift/slurm beside bin/nightshift");
  }
  return file;
}

std::string render(const std::string& text, const std::string& template_name, const Submission& submission) {
  const std::map<std::string, std::string> words = words_of(submission);
  std::string out;
  std::size_t from = 0;
  std::set<std::string> used;
  for (auto word = next_word(text, 0); word; word = next_word(text, from)) {
    const auto [first, end] = *word;
    const std::string name = text.substr(first + 1, end - first - 2);
    const auto found = words.find(name);
    if (found == words.end()) {
      throw BadInput(fmt::format("template {}: unknown @{}@", template_name, name),
                     "templates may use @NIGHTSHIFT@, @ARGUMENTS@, @INPUTS@ and @OUTPUTS@");
    }
    out += text.substr(from, first - from) + found->second;
    used.insert(name);
    from = end;
  }
  if (!used.count("NIGHTSHIFT") || !used.count("ARGUMENTS")) {
    throw BadInput(fmt::format("template {} does not run the job", template_name),
                   "it needs a line: @NIGHTSHIFT@ run @ARGUMENTS@");
  }
  check_inputs(used.count("INPUTS") > 0, template_name, submission);
  return out + text.substr(from);
}

std::vector<std::string> sbatch_command(const Submission& submission, const std::vector<std::string>& after) {
  std::vector<std::string> command{"sbatch", "--parsable", "--job-name=" + submission.job_name,
                                   "--output=" + log_file(submission)};
  if (!submission.inputs.empty())
    command.push_back(fmt::format("--array=0-{}", submission.inputs.size() - 1));
  for (const auto& [name, value] : submission.options) command.push_back(fmt::format("--{}={}", name, value));
  // Nothing is left to do behind a job that finished, so Slurm drops its successor.
  if (!after.empty()) {
    command.push_back(fmt::format("--dependency=afternotok:{}", fmt::join(after, ":")));
    command.push_back("--kill-on-invalid-dep=yes");
  }
  command.insert(command.end(), submission.extra.begin(), submission.extra.end());
  return command;
}

std::vector<fs::path> array_outputs(const fs::path& output, const std::vector<fs::path>& inputs) {
  std::vector<fs::path> outputs;
  for (const fs::path& input : inputs) {
    outputs.push_back(output.parent_path() / fmt::format("{}-{}{}", output.stem().string(),
                                                         input.stem().string(), output.extension().string()));
    if (std::count(outputs.begin(), outputs.end(), outputs.back()) > 1) {
      throw BadInput(fmt::format("two inputs would write {}", outputs.back().string()),
                     "give the inputs different names");
    }
  }
  return outputs;
}

std::optional<std::string> parse_job_id(const std::string& printed) {
  const std::string id = printed.substr(0, printed.find_first_of(";\n"));
  if (id.empty() || id.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  return id;
}

}  // namespace nightshift::runtime
