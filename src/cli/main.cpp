// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <iostream>

#include "cli/commands.h"

// The front end: reads the command line, does or starts the work, turns errors into messages and exit codes.
int main(int argc, char** argv) {
  using namespace nightshift;
  std::signal(SIGPIPE, SIG_IGN);  // a reader that goes away must not kill a running job
  int code = static_cast<int>(Exit::failed);
  try {
    cli::Front front;
    cli::add_all(front);
    code = static_cast<int>(cli::dispatch(front, argc, argv));
  } catch (const Error& error) {
    std::cerr << "nightshift: " << error.what() << std::endl;
    code = static_cast<int>(error.exit());
  } catch (const std::exception& error) {
    std::cerr << "nightshift: internal error: " << error.what() << std::endl;
  }
  std::cout.flush();
  return code;
}
