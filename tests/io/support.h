// SPDX-License-Identifier: Apache-2.0
// What the io tests share: a scratch folder, made-up answers, small prompt files.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/check.h"
#include "io/io.h"

namespace nightshift::io::test {

// A folder of this test's own, removed at the end.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  std::string path(const std::string& name) const { return root_ + "/" + name; }
  const std::string& root() const { return root_; }

 private:
  std::string root_;
};

// A varied answer that depends on (row, sample) alone: sizes from empty to some KiB, every fifth a failed
// one.
ResultRecord make_record(PromptRow row, std::int32_t sample = 0, std::int32_t samples = 1);

// A text prompts file with `rows` rows "prompt <row>"; ids "id-<row>" when asked for.
std::string write_text_prompts(const Scratch& scratch, std::uint64_t rows, bool text_ids = false);

// The message of what `action` throws; fails the test when it throws nothing.
std::string message_of(const std::function<void()>& action);

// Runs a script of this folder with a Python that has h5py; false when this machine has none.
bool has_h5py();
int run_python(const std::string& script, const std::vector<std::string>& arguments);

std::string slurp(const std::string& path);
void spill(const std::string& path, const std::string& content);
void reset_peak_rss();         // peak = now; without it the peak of earlier tests hides ours
std::size_t peak_rss_bytes();  // of this process, since the last reset

}  // namespace nightshift::io::test
