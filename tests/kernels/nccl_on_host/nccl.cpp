// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <nccl.h>
#include <sys/random.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nccl_on_host/mesh.h"
#include "nccl_on_host/nccl_on_host.h"
#include "nccl_on_host/work.h"

using namespace nightshift::simulated;

namespace {

char* at(const void* data, std::size_t offset) {
  return static_cast<char*>(const_cast<void*>(data)) + offset;
}

bool overlap(const void* a, std::size_t a_bytes, const void* b, std::size_t b_bytes) {
  return a_bytes > 0 && b_bytes > 0 && at(a, 0) < at(b, b_bytes) && at(b, 0) < at(a, a_bytes);
}

// What a rank adds up: `own` and one array from every other, in rank order.
struct Sum {
  std::vector<std::vector<float>> parts;
  std::vector<float> own;
  int rank;
  Sum(std::size_t count, const Mesh& mesh)
      : parts(static_cast<std::size_t>(mesh.size()), std::vector<float>(count)),
        own(count),
        rank(mesh.rank()) {}
  void take(const void* data) {
    if (!own.empty()) std::memcpy(own.data(), data, own.size() * sizeof(float));
  }
  void* part(int r) { return parts[static_cast<std::size_t>(r)].data(); }
  void store(void* to) {
    parts[static_cast<std::size_t>(rank)] = own;
    std::vector<float> total = parts.front();
    for (std::size_t r = 1; r < parts.size(); ++r)
      for (std::size_t i = 0; i < total.size(); ++i) total[i] += parts[r][i];
    if (!total.empty()) std::memcpy(to, total.data(), total.size() * sizeof(float));
  }
};

void only_float_sums(ncclDataType_t type, ncclRedOp_t operation) {
  if (type != ncclFloat32 || operation != ncclSum)
    throw Failure{ncclInvalidArgument, "sums of float32 are all there is here"};
}

template <class F>
void for_others(const Mesh& mesh, const F& call) {
  for (int r = 0; r < mesh.size(); ++r)
    if (r != mesh.rank()) call(r);
}

ncclResult_t point_to_point(bool sending, const void* data, std::size_t count, ncclDataType_t type, int peer,
                            ncclComm_t comm, cudaStream_t stream) {
  note(fmt::format("{} {} {} {} {}", sending ? "ncclSend" : "ncclRecv", count,
                   type == ncclFloat32 ? "float32" : "int8", sending ? "to" : "from", peer));
  return guarded(comm, [&] {
    check_comm(comm);
    if (peer < 0 || peer >= comm->mesh.size())
      throw Failure{ncclInvalidArgument, fmt::format("peer {} of {} ranks", peer, comm->mesh.size())};
    const Deed what = deed("ncclSend", count, type);
    Work work{comm, stream};
    if (peer == comm->mesh.rank())
      (sending ? work.to_myself.sends : work.to_myself.receives).emplace_back(what, data);
    else if (sending)
      work.outgoing.push_back({peer, what, data});
    else
      work.incoming.push_back({peer, what, const_cast<void*>(data)});
    add(std::move(work), true);
  });
}

// A collective of all ranks: what it sends and receives is filled in by `plan`.
template <class F>
ncclResult_t collective(const char* name, std::size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                        cudaStream_t stream, const F& plan) {
  return guarded(comm, [&] {
    const Deed what = deed(name, count, type, root);
    note(what.text());
    check_comm(comm);
    Work work{comm, stream};
    plan(work, what, comm->mesh);
    add(std::move(work));
  });
}

}  // namespace

extern "C" {

void nccl_on_host_take_record(std::string* lines) {
  *lines = std::exchange(process.record, {});
}

void nccl_on_host_fail(int result) {
  for (ncclComm* comm : process.comms) comm->state = static_cast<ncclResult_t>(result);
  process.last_error = "made to fail";
}

ncclResult_t ncclGetVersion(int* version) {
  const char* named = std::getenv("NCCL_ON_HOST_VERSION");
  *version = named == nullptr ? 22809 : std::atoi(named);
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  return ::getrandom(id->internal, 16, 0) == 16 ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  note(fmt::format("ncclCommInitRank {} of {}", rank, ranks));
  return guarded(nullptr, [&] {
    if (ranks < 1 || rank < 0 || rank >= ranks)
      throw Failure{ncclInvalidArgument, fmt::format("rank {} of {}", rank, ranks)};
    if (process.depth > 0) throw Failure{ncclInvalidUsage, "ncclCommInitRank in a group"};
    std::string name;
    for (int i = 0; i < 16; ++i) name += fmt::format("{:02x}", static_cast<unsigned char>(id.internal[i]));
    *comm = new ncclComm{{name, rank, ranks}};
    process.comms.insert(*comm);
  });
}

// All ranks meet: a message that nobody has received shows up here.
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  note("ncclCommDestroy");
  const ncclResult_t result = guarded(comm, [&] {
    check_comm(comm);
    Work work{comm, nullptr};
    const Deed what = deed("ncclCommDestroy", 0, ncclInt8);
    for_others(comm->mesh, [&](int r) {
      work.outgoing.push_back({r, what, nullptr});
      work.incoming.push_back({r, what, nullptr});
    });
    run(work);
  });
  if (process.comms.erase(comm) > 0) delete comm;
  return result;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  note("ncclCommAbort");
  if (process.comms.erase(comm) == 0) return ncclInvalidArgument;
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  if (process.comms.count(comm) == 0) return ncclInvalidArgument;
  *error = comm->state;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  static constexpr std::array kNames{"no error",
                                     "unhandled cuda error",
                                     "unhandled system error",
                                     "internal error",
                                     "invalid argument",
                                     "invalid usage",
                                     "remote process exited or there was a network error",
                                     "in progress"};
  return kNames.at(static_cast<std::size_t>(result));
}

const char* ncclGetLastError(ncclComm_t) {
  return process.last_error.c_str();
}

ncclResult_t ncclGroupStart() {
  note("ncclGroupStart");
  ++process.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  note("ncclGroupEnd");
  if (process.depth == 0) return ncclInvalidUsage;
  if (--process.depth > 0) return ncclSuccess;
  Work group = std::exchange(process.group, {});
  ncclComm* const comm = group.comm;
  return guarded(comm, [&] {
    if (comm != nullptr) submit(std::move(group));
  });
}

ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return point_to_point(true, from, count, type, peer, comm, stream);
}

ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return point_to_point(false, to, count, type, peer, comm, stream);
}

ncclResult_t ncclAllGather(const void* send, void* receive, std::size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective(
      "ncclAllGather", count, type, -1, comm, stream, [&](Work& work, const Deed& what, Mesh& mesh) {
        const std::size_t bytes = what.bytes();
        char* const own = at(receive, bytes * static_cast<std::size_t>(mesh.rank()));
        if (send != own && overlap(send, bytes, receive, bytes * static_cast<std::size_t>(mesh.size())))
          throw Failure{ncclInvalidUsage, "ncclAllGather: the own block lies in another's place"};
        for_others(mesh, [&](int r) {
          work.outgoing.push_back({r, what, send});
          work.incoming.push_back({r, what, at(receive, bytes * static_cast<std::size_t>(r))});
        });
        work.afterwards.emplace_back([=] { std::memmove(own, send, bytes); });
      });
}

ncclResult_t ncclAlltoAll(const void* send, void* receive, std::size_t count, ncclDataType_t type,
                          ncclComm_t comm, cudaStream_t stream) {
  return collective(
      "ncclAlltoAll", count, type, -1, comm, stream, [&](Work& work, const Deed& what, Mesh& mesh) {
        const std::size_t bytes = what.bytes(), all = bytes * static_cast<std::size_t>(mesh.size());
        if (overlap(send, all, receive, all))
          throw Failure{ncclInvalidUsage, "ncclAlltoAll: buffers overlap"};
        for_others(mesh, [&](int r) {
          const std::size_t offset = bytes * static_cast<std::size_t>(r);
          work.outgoing.push_back({r, what, at(send, offset)});
          work.incoming.push_back({r, what, at(receive, offset)});
        });
        const std::size_t own = bytes * static_cast<std::size_t>(mesh.rank());
        work.afterwards.emplace_back([=] { std::memcpy(at(receive, own), at(send, own), bytes); });
      });
}

ncclResult_t ncclAllReduce(const void* send, void* receive, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  return collective("ncclAllReduce", count, type, -1, comm, stream,
                    [&](Work& work, const Deed& what, Mesh& mesh) {
                      only_float_sums(type, operation);
                      const auto sum = std::make_shared<Sum>(count, mesh);
                      work.beforehand.emplace_back([=] { sum->take(send); });
                      for_others(mesh, [&](int r) {
                        work.outgoing.push_back({r, what, sum->own.data()});
                        work.incoming.push_back({r, what, sum->part(r)});
                      });
                      work.afterwards.emplace_back([=] { sum->store(receive); });
                    });
}

ncclResult_t ncclReduce(const void* send, void* receive, std::size_t count, ncclDataType_t type,
                        ncclRedOp_t operation, int root, ncclComm_t comm, cudaStream_t stream) {
  return collective("ncclReduce", count, type, root, comm, stream,
                    [&](Work& work, const Deed& what, Mesh& mesh) {
                      only_float_sums(type, operation);
                      if (root < 0 || root >= mesh.size())
                        throw Failure{ncclInvalidArgument, "ncclReduce: no such root"};
                      if (mesh.rank() != root) {
                        work.outgoing.push_back({root, what, send});
                        return;
                      }
                      const auto sum = std::make_shared<Sum>(count, mesh);
                      work.beforehand.emplace_back([=] { sum->take(send); });
                      for_others(mesh, [&](int r) { work.incoming.push_back({r, what, sum->part(r)}); });
                      work.afterwards.emplace_back([=] { sum->store(receive); });
                    });
}

ncclResult_t ncclReduceScatter(const void* send, void* receive, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  return collective("ncclReduceScatter", count, type, -1, comm, stream,
                    [&](Work& work, const Deed& what, Mesh& mesh) {
                      only_float_sums(type, operation);
                      const std::size_t bytes = what.bytes();
                      const auto block = [&](int r) { return at(send, bytes * static_cast<std::size_t>(r)); };
                      const auto sum = std::make_shared<Sum>(count, mesh);
                      work.beforehand.emplace_back([sum, own = block(mesh.rank())] { sum->take(own); });
                      for_others(mesh, [&](int r) {
                        work.outgoing.push_back({r, what, block(r)});
                        work.incoming.push_back({r, what, sum->part(r)});
                      });
                      work.afterwards.emplace_back([=] { sum->store(receive); });
                    });
}
}
