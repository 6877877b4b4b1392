// SPDX-License-Identifier: Apache-2.0
#include "nccl_on_host/work.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>

namespace nightshift::simulated {

Process process;

namespace {

void match_myself(Work& work) {
  const auto& all = work.to_myself;
  if (all.sends.size() != all.receives.size())
    throw Failure{ncclInvalidUsage, fmt::format("{} sends to this rank itself, {} receives", all.sends.size(),
                                                all.receives.size())};
  for (std::size_t i = 0; i < all.sends.size(); ++i) {
    const Deed& sent = all.sends[i].first;
    if (sent != all.receives[i].first)
      throw Failure{ncclInvalidUsage, fmt::format("this rank sends itself {}, receives {}", sent.text(),
                                                  all.receives[i].first.text())};
    work.beforehand.emplace_back([to = const_cast<void*>(all.receives[i].second), from = all.sends[i].second,
                                  bytes = sent.bytes()] { std::memcpy(to, from, bytes); });
  }
}

}  // namespace

void note(const std::string& line) {
  process.record += line + "\n";
}

ncclResult_t guarded(ncclComm* comm, const std::function<void()>& work) {
  try {
    work();
    return ncclSuccess;
  } catch (const Failure& failure) {
    process.last_error = failure.text;
    note("error: " + failure.text);
    if (comm != nullptr && process.comms.count(comm) > 0) {
      comm->state = failure.result;
      comm->mesh.close();  // so that the others do not wait for this one
    }
    return failure.result;
  }
}

void check_comm(const ncclComm* comm) {
  if (process.comms.count(const_cast<ncclComm*>(comm)) == 0)
    throw Failure{ncclInvalidArgument, "no such communicator"};
  if (comm->state != ncclSuccess) throw Failure{comm->state, "this communicator has failed"};
}

void run(const Work& work) {
  check_comm(work.comm);
  for (const auto& first : work.beforehand) first();
  work.comm->mesh.exchange(work.outgoing, work.incoming);
  for (const auto& then : work.afterwards) then();
}

void submit(Work work) {
  match_myself(work);
  if (work.stream == nullptr) return run(work);
  const auto shared = std::make_shared<const Work>(std::move(work));
  auto in_call = std::make_shared<bool>(true);
  shared->stream->submit([shared, in_call] {
    if (*in_call) return run(*shared);
    if (process.comms.count(shared->comm) > 0 && shared->comm->state == ncclSuccess)
      guarded(shared->comm, [&] { run(*shared); });
  });
  *in_call = false;
}

void add(Work work, bool only_in_groups) {
  if (process.depth == 0) {
    if (only_in_groups) throw Failure{ncclInvalidUsage, "a send or receive outside of a group may lock up"};
    return submit(std::move(work));
  }
  Work& group = process.group;
  if (group.comm != nullptr && (group.comm != work.comm || group.stream != work.stream))
    throw Failure{ncclInvalidUsage, "two communicators or streams in one group"};
  group.comm = work.comm;
  group.stream = work.stream;
  std::move(work.beforehand.begin(), work.beforehand.end(), std::back_inserter(group.beforehand));
  std::move(work.outgoing.begin(), work.outgoing.end(), std::back_inserter(group.outgoing));
  std::move(work.incoming.begin(), work.incoming.end(), std::back_inserter(group.incoming));
  std::move(work.afterwards.begin(), work.afterwards.end(), std::back_inserter(group.afterwards));
  for (const auto& one : work.to_myself.sends) group.to_myself.sends.push_back(one);
  for (const auto& one : work.to_myself.receives) group.to_myself.receives.push_back(one);
}

}  // namespace nightshift::simulated
