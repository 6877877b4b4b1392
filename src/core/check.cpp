// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"

namespace nightshift::detail {

void check_failed(const char* condition, const std::string& message, const char* file, int line) {
  throw Error(
      fmt::format("{}:{}: check failed: {}{}{}", file, line, condition, message.empty() ? "" : ": ", message),
      "this is a defect in nightshift; please report it with this line");
}

}  // namespace nightshift::detail
