// SPDX-License-Identifier: Apache-2.0
// The commands of the front end. Each add_*() describes one command to the parser, once; help, manual page
// and completion walk that description.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "core/check.h"

namespace nightshift::cli {

struct Front {
  CLI::App app;
  std::function<Exit()> action;  // what the parsed command line asks for
  bool version = false;
};

void add_run(Front& front);
void add_submit(Front& front);
void add_convert(Front& front);
void add_inspect(Front& front);
void add_status(Front& front);
void add_report(Front& front);
void add_tokenize(Front& front);
void add_completion(Front& front);
void add_manual(Front& front);
void add_help(Front& front);

void add_all(Front& front);

// Parses and returns the action's exit code. Throws BadInput with the nearest known name for a command or
// option that does not exist.
Exit dispatch(Front& front, int argc, const char* const* argv);

std::string version_text();   // three lines: version and revision, kernel sets, licence
std::string job_keys_text();  // every key of a job file with its default and meaning

// The commands in order of their declaration, and a command's options without --help.
std::vector<const CLI::App*> commands_of(const CLI::App& app);
std::vector<const CLI::Option*> options_of(const CLI::App& command);

}  // namespace nightshift::cli
