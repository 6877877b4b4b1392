// SPDX-License-Identifier: Apache-2.0
// Models over the ranks of this test run.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/golden_models.h"
#include "model/model.h"

namespace nightshift::test {

extern const parallel::Communicator* test_world;

using LayoutOfStep = std::function<parallel::Layout(int step)>;

// The layout patterns that every byte-equality test goes through. Those that never shift come first.
struct Pattern {
  std::string name;
  LayoutOfStep layout;
};
inline std::vector<Pattern> patterns(bool shifts) {
  using parallel::Layout;
  std::vector<Pattern> all{{"base", [](int) { return Layout::base; }}};
  if (!shifts) return all;
  all.push_back({"shift", [](int) { return Layout::shift; }});
  all.push_back({"alternating", [](int step) { return step % 2 == 0 ? Layout::base : Layout::shift; }});
  for (const std::uint32_t seed : {1u, 2u})
    all.push_back({"random " + std::to_string(seed), [seed](int step) {
                     std::uint32_t x = seed * 0x9e3779b9u + static_cast<std::uint32_t>(step) * 0x85ebca6bu;
                     x = (x ^ (x >> 15)) * 0x2c1b3c6du;
                     return (x >> 13) % 2 == 0 ? Layout::base : Layout::shift;
                   }});
  return all;
}

inline std::vector<parallel::Degrees> degrees_here(const ModelShape& shape, bool shifts) {
  std::vector<parallel::Degrees> here;
  for (const parallel::Degrees& d : parallel::legal_degrees(shape, test_world->size(), shifts))
    if (test_world->size() % d.ranks() == 0) here.push_back(d);
  return here;
}

inline bool can_shift(const ModelShape& shape, const parallel::Degrees& degrees) {
  return degrees.sequence > 1 && parallel::is_legal(shape, degrees, true);
}

// A directory that rank 0 writes and all ranks read.
class SharedDirectory {
 public:
  explicit SharedDirectory(const std::function<void(const std::filesystem::path&)>& write) {
    std::string path;
    if (test_world->rank() == 0) {
      own_ = std::make_unique<TempDir>();
      write(own_->path());
      path = own_->path().string();
    }
    test_world->broadcast(path);
    path_ = path;
  }
  ~SharedDirectory() { test_world->barrier(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::unique_ptr<TempDir> own_;
  std::filesystem::path path_;
};

}  // namespace nightshift::test
