// SPDX-License-Identifier: Apache-2.0
#include "io/inspect.h"

#include <filesystem>
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "cli/model_facts.h"

namespace nightshift::cli {
namespace {

struct InspectOptions {
  std::string path;
  bool json = false;
};

Exit inspect(const InspectOptions& options) {
  if (std::filesystem::is_directory(options.path)) {
    const ModelFacts facts = read_model_facts(options.path, "auto");
    std::cout << (options.json ? to_json(facts) + "\n" : to_text(facts));
    return Exit::done;
  }
  const io::Inspection found = io::inspect_file(options.path);
  std::cout << (options.json ? io::to_json(found) + "\n" : io::to_text(found));
  return Exit::done;
}

}  // namespace

void add_inspect(Front& front) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command =
      front.app.add_subcommand("inspect", "Show what is in an HDF5 file or a model directory");
  command->add_option("path", options->path, "an HDF5 file, or a Hugging Face model directory")
      ->required()
      ->type_name("FILE.h5|MODEL_DIR");
  command->add_flag("--json", options->json, "one JSON object instead of a table");
  command->footer(
      "Examples:\n"
      "  nightshift inspect answers.h5\n"
      "  nightshift inspect /models/Llama-3.1-8B-Instruct --json\n");
  command->callback([&front, options] { front.action = [options] { return inspect(*options); }; });
}

}  // namespace nightshift::cli
