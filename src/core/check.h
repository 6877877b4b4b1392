// SPDX-License-Identifier: Apache-2.0
// Errors and checks. Library code throws Error; main catches once and turns it into a message and an exit
// code.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace nightshift {

// Process exit codes, documented for scripts in docs/operations.md.
enum class Exit : int {
  done = 0,
  failed = 1,
  bad_input = 2,
  too_many_failed = 3,
  not_stored = 74,  // of a rank: its answers could not be written; the front end makes `failed` of it
  stopped_resumable = 75
};

// What failed, and what the user can do about it. `remedy` may be empty when there is nothing to advise.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& what, std::string remedy = {}, Exit exit = Exit::failed)
      : std::runtime_error(remedy.empty() ? what : what + "\n  -> " + remedy),
        summary_(what),
        remedy_(std::move(remedy)),
        exit_(exit) {}

  const std::string& summary() const { return summary_; }  // without the remedy
  const std::string& remedy() const { return remedy_; }
  Exit exit() const { return exit_; }

 private:
  std::string summary_;
  std::string remedy_;
  Exit exit_;
};

// The user's job file, arguments or data are wrong: exit code 2, nothing has been started or changed.
class BadInput : public Error {
 public:
  explicit BadInput(const std::string& what, std::string remedy = {})
      : Error(what, std::move(remedy), Exit::bad_input) {}
};

namespace detail {
[[noreturn]] void check_failed(const char* condition, const std::string& message, const char* file, int line);
}  // namespace detail

}  // namespace nightshift

// Always on: protocol, files, arguments at a door. The message is fmt style and says expected against actual.
#define NS_CHECK(condition, ...)                                                                       \
  do {                                                                                                 \
    if (!(condition)) [[unlikely]]                                                                     \
      ::nightshift::detail::check_failed(#condition, fmt::format("" __VA_ARGS__), __FILE__, __LINE__); \
  } while (false)

// Debug builds only: indices in inner loops. Never put a side effect into either.
#ifdef NDEBUG
#define NS_DCHECK(condition, ...) \
  do {                            \
  } while (false)
#else
#define NS_DCHECK(condition, ...) NS_CHECK(condition, __VA_ARGS__)
#endif
