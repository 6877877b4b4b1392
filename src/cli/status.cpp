// SPDX-License-Identifier: Apache-2.0
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "runtime/job/liveness.h"

namespace nightshift::cli {
namespace {

struct StatusOptions {
  std::string output;
  bool json = false;
};

Exit show(const StatusOptions& options) {
  const runtime::Liveness found = runtime::look_at_job(options.output);
  std::cout << (options.json ? runtime::to_json(found) + "\n" : runtime::to_text(found, options.output));
  return Exit::done;
}

}  // namespace

void add_status(Front& front) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = front.app.add_subcommand("status", "Show how far a running or stopped job is");
  command->add_option("output", options->output, "the job's output, whether it exists yet or not")
      ->required()
      ->type_name("OUTPUT.h5");
  command->add_flag("--json", options->json, "one JSON object");
  command->footer(
      "States: running; stopped (on request, can be continued); dead (ended without a word, can be "
      "continued);\n"
      "finished.\n\n"
      "Example:\n"
      "  watch nightshift status answers.h5\n");
  command->callback([&front, options] { front.action = [options] { return show(*options); }; });
}

}  // namespace nightshift::cli
