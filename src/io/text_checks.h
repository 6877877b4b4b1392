// SPDX-License-Identifier: Apache-2.0
// Checks of text from outside before anything else touches it.
#pragma once

#include <string>
#include <string_view>

#include "core/text.h"

namespace nightshift::io {

// The text with U+0000 and bytes that are not UTF-8 replaced by U+FFFD: what an HDF5 string can hold.
std::string storable_text(std::string_view text);

// Why `text` is not a JSON array of chat messages; empty when it is.
std::string messages_problem(std::string_view text);

}  // namespace nightshift::io
