// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "core/text.h"
#include "io/inspect.h"
#include "io/jsonl.h"
#include "runtime/job/finalize.h"

namespace nightshift::cli {
namespace {

namespace fs = std::filesystem;

struct ConvertOptions {
  std::string input;
  std::string output;
  std::string model;
  bool force = false;
  bool partial = false;
};

void check_paths(const ConvertOptions& options) {
  if (!options.partial && !fs::is_regular_file(options.input)) {
    throw BadInput(fmt::format("no file {}", options.input), "name a .jsonl or .h5 file");
  }
  if (fs::exists(options.output) && fs::exists(options.input) &&
      fs::equivalent(options.input, options.output)) {
    throw BadInput("input and output are the same file", "name another output");
  }
  if (fs::exists(options.output) && !options.force) {
    throw BadInput(fmt::format("{} exists already", options.output), "remove it, or pass --force");
  }
}

std::uint64_t export_lines(const ConvertOptions& options) {
  const std::string format = io::inspect_file(options.input).format;
  if (format == "results/1")
    return io::export_results(options.input, options.output, {.model = options.model});
  return io::export_batch(options.input, options.output);
}

// A result file that goes away again.
class Passing {
 public:
  explicit Passing(const std::string& beside) : path_(fmt::format("{}.rows-{}.h5", beside, ::getpid())) {}
  ~Passing() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  Passing(const Passing&) = delete;
  Passing& operator=(const Passing&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Replies to the prompts that have been answered by now; the job may be running.
Exit export_partial(const ConvertOptions& options) {
  if (fs::path(options.output).extension() != ".jsonl") {
    throw BadInput(fmt::format("--partial writes lines, and {} is no .jsonl file", options.output),
                   "name a .jsonl file");
  }
  const Passing rows(options.output);
  const io::ResultSummary found = runtime::export_committed(options.input, rows.path());
  const std::uint64_t lines =
      io::export_results(rows.path(), options.output, {.model = options.model, .answered_only = true});
  std::cerr << fmt::format("{}: replies to {} of {} prompts, the others have no answer yet\n", options.output,
                           format_count(static_cast<double>(lines)),
                           format_count(static_cast<double>(found.prompts)));
  return Exit::done;
}

// What `--partial` names is under way; a finished result is exported as a whole.
bool under_way(const ConvertOptions& options) {
  return options.partial && fs::exists(options.input + ".journal");
}

Exit convert(const ConvertOptions& options) {
  check_paths(options);
  if (under_way(options)) {
    try {
      return export_partial(options);
    } catch (const Error&) {
      if (under_way(options)) throw;  // else it has finished in the meantime
    }
  }
  if (!fs::is_regular_file(options.input)) {
    throw BadInput(fmt::format("neither {} nor {}.journal exists", options.input, options.input),
                   "name the job's output");
  }
  const std::string from = fs::path(options.input).extension();
  const std::string to = fs::path(options.output).extension();
  std::uint64_t rows = 0;
  if (from == ".jsonl" && to != ".jsonl") {
    rows = io::import_batch(options.input, options.output).rows;
  } else if (to == ".jsonl" && from != ".jsonl") {
    rows = export_lines(options);
  } else {
    throw BadInput(fmt::format("cannot tell which way to convert {} to {}", options.input, options.output),
                   "one of the two must end in .jsonl, the other is HDF5");
  }
  std::cerr << fmt::format("{}: {} rows\n", options.output, format_count(static_cast<double>(rows)));
  return Exit::done;
}

}  // namespace

void add_convert(Front& front) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = front.app.add_subcommand("convert", "Convert OpenAI batch lines to HDF5 and back");
  command->add_option("input", options->input, "batch requests (.jsonl), prompts or results (.h5)")
      ->required()
      ->type_name("IN");
  command->add_option("output", options->output, "prompts (.h5), or batch requests or replies (.jsonl)")
      ->required()
      ->type_name("OUT");
  command->add_option("--model", options->model, "name of the model in replies; default: the job's")
      ->type_name("NAME");
  command->add_flag("--partial", options->partial,
                    "of a job that is not finished, running or not: replies to what is answered by now");
  command->add_flag("--force", options->force, "replace OUT if it exists");
  command->footer(
      "Prompts become batch requests, results become batch replies. Lines that went to HDF5 come back as "
      "equal\n"
      "JSON. A line that is wrong is named with its number, and no output appears.\n\n"
      "Examples:\n"
      "  nightshift convert requests.jsonl prompts.h5\n"
      "  nightshift convert answers.h5 replies.jsonl\n"
      "  nightshift convert answers.h5 so-far.jsonl --partial\n");
  command->callback([&front, options] { front.action = [options] { return convert(*options); }; });
}

}  // namespace nightshift::cli
