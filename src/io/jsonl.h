// SPDX-License-Identifier: Apache-2.0
// JSONL in OpenAI batch form, streamed both ways.
//
// Lines -> prompts: /v1/chat/completions gives /prompts/messages, /v1/completions gives /prompts/text or
// /prompts/tokens. custom_id becomes /prompts/id; body fields that are numbers or booleans of [sampling]
// become /params/<name>; other fields that bear on the answer go to /params/json as they are, and a row whose
// field is not supported fails when it runs (bad_params). Fields without influence (model, user, metadata,
// ...) wait in /prompts/extra for the way back, so that lines -> HDF5 -> lines gives equal JSON.
#pragma once

#include <cstdint>
#include <string>

#include "io/prompts.h"

namespace nightshift::io {

struct ImportReport {
  std::uint64_t rows = 0;
  PromptForm form = PromptForm::text;
};

// BadInput naming line and column of up to 20 bad lines: broken JSON, a missing or repeated custom_id, mixed
// urls or forms. The output appears only when all lines are good.
ImportReport import_batch(const std::string& jsonl_path, const std::string& prompts_path);

// Prompts file -> batch input lines. Rows that do not come from batch lines get "row-<id>" style defaults:
// custom_id is the id as text, url follows the form. Returns the number of lines.
std::uint64_t export_batch(const std::string& prompts_path, const std::string& jsonl_path);

struct ExportOptions {
  std::string model;           // "model" of the replies; empty: the one named in the file's provenance
  bool answered_only = false;  // no lines for prompts without any answer yet (cancelled)
};

// Results file -> batch output lines in input order: one line per prompt, its samples as choices; a prompt
// whose samples all failed has "response": null and "error": {code, message}. Returns the number of lines.
std::uint64_t export_results(const std::string& results_path, const std::string& jsonl_path,
                             const ExportOptions& options = {});

}  // namespace nightshift::io
