// SPDX-License-Identifier: Apache-2.0
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "core/config.h"

namespace nightshift::cli {
namespace {

Exit show(const CLI::App& app, const std::string& topic) {
  if (topic.empty()) {
    // Not app.help(): that would show the command in use, which is this one.
    std::cout << app.get_formatter()->make_help(&app, app.get_name(), CLI::AppFormatMode::Normal);
  } else if (topic == "job") {
    std::cout << job_keys_text();
  } else {
    std::cout << app.get_subcommand(topic)->help("nightshift");
  }
  return Exit::done;
}

std::vector<std::string> topics(const CLI::App& app) {
  std::vector<std::string> names{"job"};
  for (const CLI::App* command : commands_of(app)) names.push_back(command->get_name());
  return names;
}

}  // namespace

std::string job_keys_text() {
  std::string text =
      "A job file is TOML. Relative paths are relative to the job file; any key can be set on the command "
      "line\n"
      "with --set section.key=value, where relative paths are relative to the working directory. An unknown "
      "key or\n"
      "a value out of range ends in exit code 2.\n";
  std::string section;
  for (const JobKey& key : job_keys()) {
    if (key.section != section) text += fmt::format("\n[{}]\n", section = key.section);
    const std::string value = key.value == "\"\"" ? "" : fmt::format(" = {}", key.value);
    text += fmt::format("  {:<36} {}\n{:39}{}\n", key.name + value, key.help, "", key.kind);
  }
  return text;
}

void add_help(Front& front) {
  auto topic = std::make_shared<std::string>();
  CLI::App* command =
      front.app.add_subcommand("help", "Explain a command, or all keys of a job file (help job)");
  command->add_option("topic", *topic, "a command, or job")->check(CLI::IsMember(topics(front.app)));
  command->footer("Example:\n  nightshift help job | less\n");
  command->callback([&front, topic] { front.action = [&front, topic] { return show(front.app, *topic); }; });
}

}  // namespace nightshift::cli
