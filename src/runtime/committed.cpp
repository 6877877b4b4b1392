// SPDX-License-Identifier: Apache-2.0
#include "runtime/committed.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/job/report.h"

namespace nightshift::runtime {

Committed Committed::load(const std::string& journal_dir, std::uint64_t job, std::uint64_t rows,
                          const parallel::Communicator& ranks) {
  Committed done;
  nlohmann::json rest;
  std::string checkpoints;
  if (ranks.rank() == 0) {
    const io::JournalIndex index(journal_dir, job);
    done.bits_.assign(rows / 8 + 1, '\0');
    done.samples_ = index.size();
    done.failed_ = count_failed(index);
    index.for_each_key([&](PromptRow row, std::int32_t sample, std::int32_t) {
      if (row >= rows) return;  // a journal cannot hold such a row; the result writer would say so
      if (!index.committed(row)) {
        done.partial_.emplace(row, sample);
      } else {
        done.bits_[row / 8] = static_cast<char>(done.bits_[row / 8] | 1 << (row % 8));
      }
    });
    checkpoints = index.checkpoints().encode();
    rest = {{"partial", done.partial_}, {"samples", done.samples_}};
  }
  ranks.broadcast(done.bits_);
  std::string text = rest.dump();
  ranks.broadcast(text);
  rest = nlohmann::json::parse(text);
  rest.at("partial").get_to(done.partial_);
  rest.at("samples").get_to(done.samples_);
  ranks.broadcast(checkpoints);
  done.checkpoints_ = io::Checkpoints::decode(checkpoints);
  return done;
}

void Committed::keep_to(const Scope& scope) {
  std::string outside(bits_.size(), scope.only ? '\xff' : '\0');
  for (const PromptRow row : scope.rows) {
    if (row / 8 < outside.size()) outside[row / 8] = static_cast<char>(outside[row / 8] ^ 1 << (row % 8));
  }
  for (std::size_t i = 0; i < bits_.size(); ++i) bits_[i] = static_cast<char>(bits_[i] | outside[i]);
}

bool Committed::rows(PromptRow first, std::uint64_t count) const {
  for (PromptRow at = first; at < first + count; ++at) {
    if (!row(at)) return false;
  }
  return true;
}

}  // namespace nightshift::runtime
