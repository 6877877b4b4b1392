// SPDX-License-Identifier: Apache-2.0
// Shell completion, made of the parser's own description of commands and options.
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "core/config.h"

namespace nightshift::cli {
namespace {

std::vector<std::string> long_options(const CLI::App& command) {
  std::vector<std::string> names{"--help"};
  for (const CLI::Option* option : options_of(command)) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : commands_of(app)) names.push_back(command->get_name());
  return names;
}

std::string overrides() {  // "job.name= job.input= ..."
  std::vector<std::string> keys;
  for (const JobKey& key : job_keys()) keys.push_back(fmt::format("{}.{}=", key.section, key.name));
  return fmt::format("{}", fmt::join(keys, " "));
}

std::string in_single_quotes(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return "'" + out + "'";
}

std::string bash_script(const CLI::App& app) {
  std::string cases;
  for (const CLI::App* command : commands_of(app)) {
    cases +=
        fmt::format("    {}) words='{}' ;;\n", command->get_name(), fmt::join(long_options(*command), " "));
  }
  return fmt::format(R"(# bash completion for nightshift
_nightshift() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words=
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '{0} --help --version' -- "$current"))
    return
  fi
  case $previous in
    --set) compopt -o nospace; COMPREPLY=($(compgen -W '{1}' -- "$current")); return ;;
    completion) COMPREPLY=($(compgen -W 'bash zsh fish' -- "$current")); return ;;
    help) COMPREPLY=($(compgen -W 'job {0}' -- "$current")); return ;;
  esac
  case ${{COMP_WORDS[1]}} in
{2}  esac
  if [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    compopt -o filenames
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -F _nightshift nightshift
)",
                     fmt::join(command_names(app), " "), overrides(), cases);
}

std::string zsh_script(const CLI::App& app) {
  std::string commands;
  std::string cases;
  for (const CLI::App* command : commands_of(app)) {
    commands +=
        fmt::format("    {}\n", in_single_quotes(command->get_name() + ":" + command->get_description()));
    cases += fmt::format("    {}) compadd -- {} ;;\n", command->get_name(),
                         fmt::join(long_options(*command), " "));
  }
  return fmt::format(R"(#compdef nightshift
# zsh completion for nightshift
_nightshift() {{
  local -a commands
  commands=(
{0}  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  case $words[CURRENT-1] in
    --set) compadd -S '' -- {1}; return ;;
    completion) compadd -- bash zsh fish; return ;;
    help) compadd -- job {2}; return ;;
  esac
  if [[ $PREFIX != -* ]]; then
    _files
    return
  fi
  case $words[2] in
{3}  esac
}}
if [[ $funcstack[1] == _nightshift ]]; then _nightshift "$@"; else compdef _nightshift nightshift; fi
)",
                     commands, overrides(), fmt::join(command_names(app), " "), cases);
}

std::string fish_option(const std::string& command, const CLI::Option& option) {
  std::string line;
  for (const std::string& name : option.get_lnames()) {
    line += fmt::format("complete -c nightshift -n '__fish_seen_subcommand_from {}' -l {}{} -d {}\n", command,
                        name, option.get_type_size() == 0 ? "" : " -r",
                        in_single_quotes(option.get_description()));
  }
  return line;
}

std::string fish_script(const CLI::App& app) {
  std::string text = "# fish completion for nightshift\n";
  for (const CLI::App* command : commands_of(app)) {
    const std::string name = command->get_name();
    text += fmt::format("complete -c nightshift -n __fish_use_subcommand -a {} -d {}\n", name,
                        in_single_quotes(command->get_description()));
    for (const CLI::Option* option : options_of(*command)) text += fish_option(name, *option);
  }
  text += fmt::format("complete -c nightshift -n '__fish_seen_subcommand_from run' -l set -x -a '{}'\n",
                      overrides());
  text += "complete -c nightshift -n '__fish_seen_subcommand_from completion' -x -a 'bash zsh fish'\n";
  return text + fmt::format("complete -c nightshift -n '__fish_seen_subcommand_from help' -x -a 'job {}'\n",
                            fmt::join(command_names(app), " "));
}

Exit print_completion(const CLI::App& app, const std::string& shell) {
  std::cout << (shell == "bash" ? bash_script(app) : shell == "zsh" ? zsh_script(app) : fish_script(app));
  return Exit::done;
}

}  // namespace

void add_completion(Front& front) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command =
      front.app.add_subcommand("completion", "Print a completion script for bash, zsh or fish");
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->type_name("SHELL")
      ->check(CLI::IsMember({"bash", "zsh", "fish"}).description(""));
  command->footer("Example:\n  source <(nightshift completion bash)\n");
  command->callback(
      [&front, shell] { front.action = [&front, shell] { return print_completion(front.app, *shell); }; });
}

}  // namespace nightshift::cli
