// SPDX-License-Identifier: Apache-2.0
#include "io/manifest.h"

#include <xxhash.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"

namespace nightshift::io {
namespace {

using nlohmann::json;

constexpr std::uint64_t kLargestManifest = 64u << 20;

std::string path_in(const std::string& directory) {
  return directory + "/manifest.json";
}

// The settings below `path` that differ, as "sampling.temperature: 0.0 -> 0.7".
void list_differences(const json& before, const json& now, const std::string& path,
                      std::vector<std::string>& out) {
  if (before == now) return;
  if (!before.is_object() || !now.is_object()) {
    out.push_back(fmt::format("{}: {} -> {}", path, before.dump(), now.dump()));
    return;
  }
  for (const auto& [key, value] : before.items())
    list_differences(value, now.value(key, json()), path + "." + key, out);
  for (const auto& [key, value] : now.items()) {
    if (!before.contains(key)) list_differences(json(), value, path + "." + key, out);
  }
}

// What the user changed in one section of the job, to explain why a digest differs.
std::string explain(const Manifest& before, const Manifest& now, const char* section) {
  const json a = json::parse(before.job_json, nullptr, false), b = json::parse(now.job_json, nullptr, false);
  if (!a.is_object() || !b.is_object()) return {};
  std::vector<std::string> lines;
  list_differences(a.value(section, json()), b.value(section, json()), section, lines);
  return lines.empty() ? "" : fmt::format(" ({})", fmt::join(lines, "; "));
}

}  // namespace

std::uint64_t Manifest::fingerprint() const {
  const std::string text =
      fmt::format("{}\n{}\n{}\n{}", version, input_digest, model_digest, sampling_digest);
  return XXH3_64bits(text.data(), text.size());
}

std::string journal_directory(const std::string& output) {
  return output + ".journal";
}

void write_manifest(const std::string& directory, const Manifest& m) {
  std::error_code error;
  if (std::filesystem::create_directory(directory, error)) sync_directory(directory_of(directory));
  if (error) throw_system_error("cannot create " + directory, error.value());
  const json content{{"version", m.version},
                     {"input_path", m.input_path},
                     {"input_digest", m.input_digest},
                     {"model_digest", m.model_digest},
                     {"sampling_digest", m.sampling_digest},
                     {"job", json::parse(m.job_json)}};
  write_file_atomically(path_in(directory), content.dump(2) + "\n");
}

std::optional<Manifest> read_manifest(const std::string& directory) {
  const std::string path = path_in(directory);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const std::string text = read_whole_file(path, kLargestManifest);
  if (nests_deeper(text, kMaxJsonDepth)) {
    throw Error(fmt::format("{} is not a manifest: nested too deeply", path),
                "start with --restart to set this journal aside");
  }
  const json content = json::parse(text, nullptr, false);
  try {
    Manifest m;
    m.version = content.at("version").get<int>();
    m.input_path = content.at("input_path").get<std::string>();
    m.input_digest = content.at("input_digest").get<std::string>();
    m.model_digest = content.at("model_digest").get<std::string>();
    m.sampling_digest = content.at("sampling_digest").get<std::string>();
    m.job_json = content.at("job").dump();
    return m;
  } catch (const json::exception& problem) {
    throw Error(fmt::format("{} is not a manifest: {}", path, problem.what()),
                "start with --restart to set this journal aside");
  }
}

std::vector<std::string> resume_conflicts(const Manifest& before, const Manifest& now) {
  std::vector<std::string> lines;
  if (before.version != now.version) {
    lines.push_back(fmt::format("journal format: {} -> {}", before.version, now.version));
  }
  if (before.input_digest != now.input_digest) {
    lines.push_back(fmt::format("input: {} {} -> {} {}", before.input_path, before.input_digest,
                                now.input_path, now.input_digest));
  }
  if (before.model_digest != now.model_digest) {
    lines.push_back(fmt::format("model: {} -> {}{}", before.model_digest, now.model_digest,
                                explain(before, now, "model")));
  }
  if (before.sampling_digest != now.sampling_digest) {
    lines.push_back(fmt::format("sampling: {} -> {}{}", before.sampling_digest, now.sampling_digest,
                                explain(before, now, "sampling")));
  }
  return lines;
}

void check_resumable(const Manifest& before, const Manifest& now) {
  const std::vector<std::string> lines = resume_conflicts(before, now);
  if (lines.empty()) return;
  throw BadInput(
      fmt::format("the journal of an earlier run does not fit this job:\n  {}", fmt::join(lines, "\n  ")),
      "start with --restart to begin anew (the old journal is kept aside), or undo the change");
}

}  // namespace nightshift::io
