// SPDX-License-Identifier: Apache-2.0
// What chat templates compute with: whole numbers that do not overflow, and texts and lists that cannot grow
// without bound. The template engine's own places for it are sent here when the build prepares its header
// (GetMinja.cmake). Everything that goes wrong is a std::runtime_error, as all errors in templates are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace template_guards {

std::int64_t negative(std::int64_t a);
std::int64_t sum(std::int64_t a, std::int64_t b);
std::int64_t difference(std::int64_t a, std::int64_t b);
std::int64_t product(std::int64_t a, std::int64_t b);
std::int64_t quotient(std::int64_t a, std::int64_t b);   // rounded towards zero
std::int64_t remainder(std::int64_t a, std::int64_t b);  // of that quotient

// What this thread's templates may still make, in bytes of texts and lists, until the next call.
void allow(std::size_t bytes);
void made(std::size_t bytes);
std::string joined(std::string first, const std::string& second);
// `times`, 0 where it is negative, once that many pieces of `bytes` are accounted for.
std::int64_t repeated(std::size_t bytes, std::int64_t times);

}  // namespace template_guards
