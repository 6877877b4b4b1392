// SPDX-License-Identifier: Apache-2.0
#include "io/support.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "io/hdf5.h"

// Asked by the leak sanitizer: HDF5 never frees the chunk cache of a dataset that it could not close (disk
// full).
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5";
}

namespace nightshift::io::test {
namespace {

// The first Python that has h5py: the one named by NIGHTSHIFT_PYTHON, the user's, the system's. Empty: none
// has.
const std::string& python() {
  static const std::string found = [] {
    const char* named = std::getenv("NIGHTSHIFT_PYTHON");
    for (const std::string& candidate : {std::string(named != nullptr ? named : ""), std::string("python3"),
                                         std::string("/usr/bin/python3")}) {
      if (!candidate.empty() && std::system((candidate + " -c 'import h5py' > /dev/null 2>&1").c_str()) == 0)
        return candidate;
    }
    return std::string();
  }();
  return found;
}

}  // namespace

Scratch::Scratch() {
  std::string pattern = (std::filesystem::temp_directory_path() / "nightshift-io-XXXXXX").string();
  root_ = ::mkdtemp(pattern.data());
}

Scratch::~Scratch() {
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

ResultRecord make_record(PromptRow row, std::int32_t sample, std::int32_t samples) {
  ResultRecord r;
  r.row = row;
  r.sample = sample;
  r.samples = samples;
  const auto seed = static_cast<std::int32_t>(row % 1000) + 7 * sample;
  if (row % 5 == 4) {
    r.finish_reason = FinishReason::failed;
    r.error = fmt::format("too_long: {} > 8192 tokens", 9000 + seed);
    return r;
  }
  r.finish_reason = seed % 2 == 0 ? FinishReason::stop : FinishReason::length;
  for (std::int32_t i = 0; i < seed % 97; ++i) r.tokens.push_back((seed * 31 + i * 17) % 32000);
  r.text = fmt::format("answer {} of row {}: ", sample, row);
  for (std::int32_t i = 0; i < seed % 11; ++i) r.text += "größe 日本 🌙 ";
  r.prompt_tokens = 10 + seed % 50;
  r.cached_tokens = seed % 16;
  r.started_s = static_cast<double>(row) * 0.25;
  r.first_token_s = r.started_s + 0.125;
  r.finished_s = r.started_s + 1.5;
  r.top_k = seed % 3;
  for (std::size_t i = 0; i < r.tokens.size(); ++i) {
    r.logprobs.push_back(-0.5F * static_cast<float>(i));
    for (std::int32_t k = 0; k < r.top_k; ++k)
      r.top.push_back({r.tokens[i] + k, -0.25F * static_cast<float>(k)});
  }
  return r;
}

std::string write_text_prompts(const Scratch& scratch, std::uint64_t rows, bool text_ids) {
  const std::string path = scratch.path("prompts.h5");
  h5::File file = h5::File::create(path);
  {
    h5::Dataset text = file.create("/prompts/text", {.store = h5::Store::string});
    std::vector<std::string> texts, ids;
    for (std::uint64_t row = 0; row < rows; ++row) {
      texts.push_back(fmt::format("prompt {}", row));
      ids.push_back(fmt::format("id-{}", row));
    }
    text.append_strings(texts);
    if (text_ids) file.create("/prompts/id", {.store = h5::Store::string}).append_strings(ids);
  }
  file.close();
  return path;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

bool has_h5py() {
  return !python().empty();
}

int run_python(const std::string& script, const std::vector<std::string>& arguments) {
  std::string command = python() + " " NIGHTSHIFT_SOURCE_DIR "/tests/io/" + script;
  for (const std::string& argument : arguments) command += " '" + argument + "'";
  return WEXITSTATUS(std::system(command.c_str()));
}

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

void spill(const std::string& path, const std::string& content) {
  std::filesystem::remove(path);  // some file systems write a truncated file through to disk at once
  std::ofstream(path, std::ios::binary) << content;
}

void reset_peak_rss() {
  std::ofstream("/proc/self/clear_refs") << "5";
}

std::size_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  }
  ADD_FAILURE() << "no VmHWM in /proc/self/status";
  return 0;
}

}  // namespace nightshift::io::test
