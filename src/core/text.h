// SPDX-License-Identifier: Apache-2.0
// Small text helpers that several rooms need for messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace nightshift {

// The candidate with the smallest edit distance to `name`, or "" when nothing is close. For "did you mean".
std::string_view nearest(std::string_view name, std::span<const std::string_view> candidates);

// "12 GiB", "12GiB", "512MiB", "1.5e9", "4096" -> bytes. Throws BadInput with the legal forms.
std::uint64_t parse_bytes(std::string_view text);
std::string format_bytes(double bytes);       // "1.8 GiB"
std::string format_count(double count);       // "12,345" below a million, "1.23 M" above
std::string format_duration(double seconds);  // "4 s", "3 min 20 s", "2 h 05 min"

// Offset of the first byte that is not UTF-8 (overlong forms, surrogates and values above U+10FFFF are not).
std::optional<std::size_t> invalid_utf8(std::string_view text);
// Bytes of the well-formed sequence at the start of `text`, 0 when there is none (Unicode 15, table 3-7).
std::size_t utf8_length(std::string_view text);

// Whether brackets nest deeper than `limit`. Asked before parsing, because a tree of 100,000 levels ends the
// stack.
bool nests_deeper(std::string_view json, int limit);
inline constexpr int kMaxJsonDepth = 100;

}  // namespace nightshift
