// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/in_work.h"

#include <fcntl.h>

#include "core/check.h"

namespace nightshift::runtime {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "in-work-";
constexpr std::uint64_t kLongestRange = 1u << 16;  // rows; more than a reader ever takes at once

struct Slot {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};
static_assert(sizeof(Slot) == 16);

std::vector<fs::path> files_in(const fs::path& dir) {
  std::vector<fs::path> files;
  std::error_code gone;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, gone)) {
    if (entry.path().filename().string().starts_with(kPrefix)) files.push_back(entry.path());
  }
  return files;
}

}  // namespace

InWork::InWork(const fs::path& dir, int rank) {
  try {
    file_ =
        io::FileHandle((dir / fmt::format("{}{:05}", kPrefix, rank)).string(), O_RDWR | O_CREAT | O_TRUNC);
  } catch (const Error&) {
  }
}

std::size_t InWork::add(PromptRow row) {
  std::size_t slot = slots_;
  if (free_.empty()) {
    ++slots_;
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  write(slot, row, 1);
  return slot;
}

void InWork::remove(std::size_t slot) {
  write(slot, 0, 0);
  free_.push_back(slot);
}

void InWork::write(std::size_t slot, PromptRow first, std::uint64_t count) const {
  if (!file_.is_open()) return;
  const Slot content{first, count};
  try {
    file_.write_at(slot * sizeof content, {reinterpret_cast<const char*>(&content), sizeof content});
  } catch (const Error&) {
  }
}

std::set<PromptRow> read_in_work(const fs::path& dir) {
  std::set<PromptRow> rows;
  for (const fs::path& path : files_in(dir)) {
    const io::FileHandle file(path.string(), O_RDONLY);
    std::vector<Slot> slots(file.size() / sizeof(Slot));
    const std::size_t read =
        file.read_at(0, {reinterpret_cast<char*>(slots.data()), slots.size() * sizeof(Slot)});
    slots.resize(read / sizeof(Slot));
    for (const Slot& slot : slots) {
      if (slot.count > kLongestRange) continue;  // no writer of ours
      for (std::uint64_t i = 0; i < slot.count; ++i) rows.insert(slot.first + i);
    }
  }
  return rows;
}

void remove_in_work(const fs::path& dir) {
  std::error_code ignored;
  for (const fs::path& file : files_in(dir)) fs::remove(file, ignored);
}

}  // namespace nightshift::runtime
