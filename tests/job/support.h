// SPDX-License-Identifier: Apache-2.0
// What the job room's tests share: a scratch job on the quickstart prompts, with answers made up.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/config.h"
#include "io/io.h"

namespace nightshift::runtime::test {

class ScratchJob : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  io::Manifest manifest() const;
  void start() const;                            // journal folder, manifest, job.json, clock
  io::ResultRecord answer(PromptRow row) const;  // the expected text, in three tokens
  void commit(PromptRow first, PromptRow last, int rank = 0) const;  // rows first .. last - 1
  std::vector<std::string> expected() const;                         // /expected/text
  void record_start(int number, double seconds, const std::string& stopped_by) const;

  Job job_;
  std::filesystem::path dir_;
};

// The message of the BadInput or Error that `action` throws.
std::string message_of(const std::function<void()>& action);

}  // namespace nightshift::runtime::test
