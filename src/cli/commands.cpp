// SPDX-License-Identifier: Apache-2.0
#include "cli/commands.h"

#include <algorithm>
#include <iostream>

#include "core/text.h"
#include "runtime/job/version.h"

namespace nightshift::cli {
namespace {

std::string nearest_name(const std::string& name, const std::vector<std::string>& known) {
  const std::vector<std::string_view> views(known.begin(), known.end());
  return std::string(nearest(name, views));
}

std::string did_you_mean(const std::string& name) {
  return name.empty() ? std::string() : fmt::format("did you mean {}? ", name);
}

void refuse_unknown_command(const CLI::App& app, const std::string& word) {
  std::vector<std::string> names;
  for (const CLI::App* command : commands_of(app)) names.push_back(command->get_name());
  if (std::find(names.begin(), names.end(), word) != names.end()) return;
  throw BadInput(
      fmt::format("unknown command {}", word),
      fmt::format("{}commands: {}", did_you_mean(nearest_name(word, names)), fmt::join(names, ", ")));
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names{"--help"};
  for (const CLI::Option* option : options_of(command)) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// What a command line that does not parse meant to say, as far as it can be told.
[[noreturn]] void refuse(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<CLI::App*> chosen = const_cast<CLI::App&>(app).get_subcommands();
  const CLI::App& command = chosen.empty() ? app : *chosen.front();
  const std::string name = chosen.empty() ? "" : command.get_name();
  const std::string where = chosen.empty() ? "" : name + ": ";
  const std::string remedy = fmt::format("see nightshift {}{}--help", name, chosen.empty() ? "" : " ");
  const std::vector<std::string> rest = app.remaining(true);
  const auto option = std::find_if(rest.begin(), rest.end(), [](const std::string& word) {
    return word.size() > 1 && word.front() == '-';
  });
  if (option != rest.end()) {
    const std::string word = option->substr(0, option->find('='));
    throw BadInput(fmt::format("{}unknown option {}", where, word),
                   did_you_mean(nearest_name(word, option_names(command))) + remedy);
  }
  if (!rest.empty()) throw BadInput(fmt::format("{}unexpected argument {}", where, rest.front()), remedy);
  throw BadInput(fmt::format("{}{}", where, error.what()), remedy);
}

}  // namespace

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::vector<const CLI::Option*> options_of(const CLI::App& command) {
  const CLI::Option* help = command.get_help_ptr();
  return command.get_options([help](const CLI::Option* option) { return option != help; });
}

std::string version_text() {
  return fmt::format("nightshift {} (revision {})\nkernel sets: {}\nApache License 2.0\n", runtime::version(),
                     runtime::git_revision(), runtime::backends());
}

void add_all(Front& front) {
  CLI::App& app = front.app;
  app.name("nightshift");
  app.description(
      "nightshift - offline LLM inference for clusters: prompts in HDF5, answers in HDF5, one command");
  app.footer(
      "Exit codes:\n"
      "  0   done\n"
      "  1   failed\n"
      "  2   bad job file, arguments or input; nothing was started\n"
      "  3   finished, but more prompts failed than job.max_failed allows\n"
      "  75  stopped early (a signal, the end of the allocation); the same command continues\n\n"
      "Example:\n"
      "  nightshift run jobs/quickstart.toml --ranks 2\n");
  app.add_flag("--version", front.version, "Print version, git revision and compiled kernel sets");
  app.get_formatter()->column_width(34);
  for (const auto add : {add_run, add_submit, add_convert, add_inspect, add_status, add_report, add_tokenize,
                         add_help, add_completion, add_manual}) {
    add(front);
  }
}

Exit dispatch(Front& front, int argc, const char* const* argv) {
  CLI::App& app = front.app;
  if (argc < 2) {
    std::cerr << app.help();
    return Exit::bad_input;
  }
  if (argv[1][0] != '-') refuse_unknown_command(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return Exit::done;
  } catch (const CLI::ParseError& error) {
    refuse(app, error);
  }
  if (front.version) {
    std::cout << version_text();
    return Exit::done;
  }
  if (!front.action) throw BadInput("no command given", "see nightshift --help");
  return front.action();
}

}  // namespace nightshift::cli
