// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/slurm.h"

#include <charconv>
#include <ctime>

#include <fmt/format.h>

namespace nightshift::runtime {
namespace {

constexpr std::int64_t kMostNodes = 1'000'000;

// All of `text` as a number above zero.
std::optional<std::int64_t> parse_positive(std::string_view text) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value <= 0) return std::nullopt;
  return value;
}

std::optional<int> positive(const Variables& variable, const char* name) {
  const char* text = variable(name);
  const auto value = parse_positive(text != nullptr ? text : "");
  return value && *value <= kMostNodes ? std::optional<int>(static_cast<int>(*value)) : std::nullopt;
}

std::vector<int> counts(const Variables& variable, const char* name) {
  const char* text = variable(name);
  return parse_counts(text != nullptr ? text : "");
}

// The next part of a list, which loses it and the separator behind it.
std::string_view take_part(std::string_view& list, char separator) {
  const std::size_t end = list.find(separator);
  const std::string_view part = list.substr(0, end);
  list = end == std::string_view::npos ? std::string_view() : list.substr(end + 1);
  return part;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

}  // namespace

std::vector<int> parse_counts(std::string_view text) {
  std::vector<int> all;
  while (!text.empty()) {
    std::string_view part = take_part(text, ',');
    std::optional<std::int64_t> times = 1;
    if (const std::size_t open = part.find("(x"); open != std::string_view::npos && part.ends_with(')')) {
      times = parse_positive(part.substr(open + 2, part.size() - open - 3));
      part = part.substr(0, open);
    }
    const auto count = parse_positive(part);
    if (!count || !times || *count > kMostNodes ||
        *times + static_cast<std::int64_t>(all.size()) > kMostNodes)
      return {};
    all.insert(all.end(), static_cast<std::size_t>(*times), static_cast<int>(*count));
  }
  return all;
}

std::optional<Slurm> read_allocation(const Variables& variable) {
  if (variable("SLURM_JOB_ID") == nullptr) return std::nullopt;
  Slurm slurm;
  slurm.nodes = positive(variable, "SLURM_JOB_NUM_NODES").value_or(1);
  slurm.tasks = positive(variable, "SLURM_NTASKS");
  slurm.cpus_per_task = positive(variable, "SLURM_CPUS_PER_TASK");
  slurm.gpus_on_node = positive(variable, "SLURM_GPUS_ON_NODE");
  slurm.on_a_node = variable("SLURMD_NODENAME") != nullptr;
  // Set without a request for tasks too, and then counts CPUs.
  if (slurm.tasks) slurm.tasks_on_node = counts(variable, "SLURM_TASKS_PER_NODE");
  slurm.cpus_on_node = counts(variable, "SLURM_JOB_CPUS_PER_NODE");
  if (const char* end = variable("SLURM_JOB_END_TIME")) slurm.end_time = parse_end_time(end);
  return slurm;
}

std::optional<std::int64_t> parse_end_time(std::string_view text) {
  text = trimmed(text);
  if (const auto seconds = parse_positive(text)) return seconds;
  std::tm time{};
  const std::string copy(text);
  const char* end = ::strptime(copy.c_str(), "%Y-%m-%dT%H:%M:%S", &time);
  if (end == nullptr || *end != '\0') return std::nullopt;
  time.tm_isdst = -1;
  const std::time_t seconds = std::mktime(&time);
  return seconds > 0 ? std::optional<std::int64_t>(seconds) : std::nullopt;
}

std::string end_time_query(std::string_view job_id) {
  if (!parse_positive(job_id)) return {};
  // In Unix seconds: a local time can mean two hours when the clocks change.
  return fmt::format("SLURM_TIME_FORMAT=%s squeue --noheader --jobs={} --format=%e 2> /dev/null", job_id);
}

std::string device_of_rank(std::string_view visible, int local_rank) {
  std::vector<std::string_view> devices;
  while (!visible.empty()) devices.push_back(trimmed(take_part(visible, ',')));
  if (devices.size() < 2 || local_rank < 0) return {};
  return std::string(devices[static_cast<std::size_t>(local_rank) % devices.size()]);
}

}  // namespace nightshift::runtime
