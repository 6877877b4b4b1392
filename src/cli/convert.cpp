// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "core/text.h"
#include "io/inspect.h"
#include "io/jsonl.h"

namespace nightshift::cli {
namespace {

namespace fs = std::filesystem;

struct ConvertOptions {
  std::string input;
  std::string output;
  std::string model;
  bool force = false;
};

void check_paths(const ConvertOptions& options) {
  if (!fs::is_regular_file(options.input)) {
    throw BadInput(fmt::format("no file {}", options.input), "name a .jsonl or .h5 file");
  }
  if (fs::exists(options.output) && fs::equivalent(options.input, options.output)) {
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

Exit convert(const ConvertOptions& options) {
  check_paths(options);
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
  command->add_flag("--force", options->force, "replace OUT if it exists");
  command->footer(
      "Prompts become batch requests, results become batch replies. Lines that went to HDF5 come back as "
      "equal\n"
      "JSON. A line that is wrong is named with its number, and no output appears.\n\n"
      "Examples:\n"
      "  nightshift convert requests.jsonl prompts.h5\n"
      "  nightshift convert answers.h5 replies.jsonl\n");
  command->callback([&front, options] { front.action = [options] { return convert(*options); }; });
}

}  // namespace nightshift::cli
