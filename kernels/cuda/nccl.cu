// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/nccl.h"

#if NIGHTSHIFT_HAVE_NCCL
#include <dlfcn.h>

#include <cstdlib>

#include "core/check.h"

namespace nightshift::kernels::cuda {
namespace {

constexpr int kOldest = 21300;  // ncclGetLastError
constexpr int kWithAllToAll = 22800;

template <class Function>
void find(void* library, const char* name, Function& function, std::string& missing) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function == nullptr && missing.empty()) missing = fmt::format("it has no {}", name);
}

void fill(Nccl& nccl, void* library) {
  decltype(&::ncclGetVersion) version = nullptr;
  std::string& missing = nccl.missing;
  find(library, "ncclGetVersion", version, missing);
  find(library, "ncclGetUniqueId", nccl.unique_id, missing);
  find(library, "ncclCommInitRank", nccl.init, missing);
  find(library, "ncclCommDestroy", nccl.destroy, missing);
  find(library, "ncclCommAbort", nccl.abort, missing);
  find(library, "ncclCommGetAsyncError", nccl.async_error, missing);
  find(library, "ncclGetErrorString", nccl.error_string, missing);
  find(library, "ncclGetLastError", nccl.last_error, missing);
  find(library, "ncclGroupStart", nccl.group_start, missing);
  find(library, "ncclGroupEnd", nccl.group_end, missing);
  find(library, "ncclSend", nccl.send, missing);
  find(library, "ncclRecv", nccl.receive, missing);
  find(library, "ncclAllGather", nccl.all_gather, missing);
  find(library, "ncclAllReduce", nccl.all_reduce, missing);
  find(library, "ncclReduce", nccl.reduce, missing);
  find(library, "ncclReduceScatter", nccl.reduce_scatter, missing);
  if (version == nullptr || version(&nccl.version) != ncclSuccess || nccl.version < kOldest) {
    missing = fmt::format("its version is {}, at least {} is needed", nccl.version, kOldest);
    return;
  }
  if (std::string optional; nccl.version >= kWithAllToAll)
    find(library, "ncclAlltoAll", nccl.all_to_all, optional);
}

Nccl load() {
  const char* named = std::getenv("NIGHTSHIFT_NCCL_LIBRARY");
  const std::string path = named != nullptr && *named != '\0' ? named : "libnccl.so.2";
  Nccl nccl;
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    nccl.missing = fmt::format("{} does not load: {}", path, ::dlerror());
    return nccl;
  }
  fill(nccl, library);
  if (!nccl.missing.empty()) nccl.missing = fmt::format("{} cannot be used: {}", path, nccl.missing);
  return nccl;
}

}  // namespace

const Nccl& nccl() {
  static const Nccl loaded = load();
  return loaded;
}

}  // namespace nightshift::kernels::cuda
#endif
