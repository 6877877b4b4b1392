// SPDX-License-Identifier: Apache-2.0
// What a call asks for, when it is done, and what this process remembers.
#pragma once

#include <nccl.h>

#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "nccl_on_host/mesh.h"

struct ncclComm {
  nightshift::simulated::Mesh mesh;
  ncclResult_t state = ncclSuccess;
};

namespace nightshift::simulated {

// One call, or all calls of a group.
struct Work {
  Work() = default;
  Work(ncclComm* comm_, cudaStream_t stream_) : comm(comm_), stream(stream_) {}

  ncclComm* comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<std::function<void()>> beforehand;
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  std::vector<std::function<void()>> afterwards;
  // Messages to this rank itself: the receive finds what the send has left.
  struct {
    std::vector<std::pair<Deed, const void*>> sends, receives;
  } to_myself;
};

struct Process {
  std::string record;
  std::string last_error;
  std::set<ncclComm*> comms;
  int depth = 0;  // of groups
  Work group;
};
extern Process process;

void note(const std::string& line);
// Runs `work`; a Failure becomes the result, is noted, and ends the communicator.
ncclResult_t guarded(ncclComm* comm, const std::function<void()>& work);
// Throws Failure.
void check_comm(const ncclComm* comm);

// In the order of the stream: now, and with a graph, again and again. What goes wrong in a graph shows up as
// an asynchronous error.
void submit(Work work);
void run(const Work& work);  // now
// Puts the work into the open group, or submits it.
void add(Work work, bool only_in_groups = false);

}  // namespace nightshift::simulated
