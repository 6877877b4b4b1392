// SPDX-License-Identifier: Apache-2.0
// The manual page in roff, made of the same descriptions as --help.
#include <iostream>

#include "cli/commands.h"
#include "core/config.h"
#include "runtime/job/version.h"

namespace nightshift::cli {
namespace {

// Text for roff: backslashes and hyphens escaped, no line that begins like a request.
std::string roff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out;
}

std::string option_head(const CLI::Option& option) {
  const std::string names = option.get_positional() ? option.get_type_name() : option.get_name(false, true);
  const std::string value =
      option.get_positional() || option.get_type_size() == 0 ? "" : option.get_type_name();
  return fmt::format(".TP\n.B {}{}\n", roff(names),
                     value.empty() ? "" : fmt::format(" \\fI{}\\fR", roff(value)));
}

std::string command_section(const CLI::App& command) {
  std::string text =
      fmt::format(".SS nightshift {}\n{}.\n", roff(command.get_name()), roff(command.get_description()));
  for (const CLI::Option* option : options_of(command)) {
    text += option_head(*option) + roff(option->get_description()) + "\n";
  }
  return text + fmt::format(".PP\n.nf\n{}.fi\n", roff(command.get_footer()));
}

std::string job_section() {
  std::string text = ".SH JOB FILE\nTOML; relative paths are relative to the job file.\n";
  std::string section;
  for (const JobKey& key : job_keys()) {
    if (key.section != section) text += fmt::format(".SS [{}]\n", section = key.section);
    text += fmt::format(".TP\n.B {}\n{} ({}; default {})\n", roff(key.name), roff(key.help), roff(key.kind),
                        roff(key.value));
  }
  return text;
}

Exit print_manual(const CLI::App& app) {
  std::string text =
      fmt::format(".TH NIGHTSHIFT 1 \"\" \"nightshift {}\" \"User commands\"\n", runtime::version());
  text += ".SH NAME\nnightshift \\- offline LLM inference for clusters\n";
  text += ".SH SYNOPSIS\n.B nightshift\n.I command\n[options]\n.SH DESCRIPTION\n";
  text +=
      "Reads prompts from HDF5 or OpenAI batch lines, runs them on MPI ranks, and writes the answers into "
      "one HDF5 "
      "file. Finished answers are durable at once: a job that was stopped or killed continues where it "
      "was.\n";
  text += ".SH COMMANDS\n";
  for (const CLI::App* command : commands_of(app)) text += command_section(*command);
  text += job_section();
  text += fmt::format(".SH EXIT STATUS AND EXAMPLE\n.nf\n{}.fi\n", roff(app.get_footer()));
  std::cout << text;
  return Exit::done;
}

}  // namespace

void add_manual(Front& front) {
  CLI::App* command = front.app.add_subcommand("manual", "Print the manual page (roff)");
  command->footer("Example:\n  nightshift manual > nightshift.1 && man ./nightshift.1\n");
  command->callback([&front] { front.action = [&front] { return print_manual(front.app); }; });
}

}  // namespace nightshift::cli
