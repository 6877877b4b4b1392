// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "core/check.h"

namespace nightshift::kernels {
namespace {

namespace fs = std::filesystem;

struct GpuLibrary {
  using Count = int (*)();
  using Make = Backend* (*)(int, bool);
  using Number = int (*)(const Backend*);
  using WhyNoGroup = void (*)(std::string*);
  using GroupId = void (*)(GpuGroupId*);
  using Group = GpuGroup* (*)(Backend*, const GpuGroupId*, int, int, const char*);
  using Facts = void (*)(int, GpuFacts&);

  Count count = nullptr;
  Make make = nullptr;
  Facts facts = nullptr;
  Number number = nullptr;
  WhyNoGroup why_no_group = nullptr;
  GroupId group_id = nullptr;
  Group group = nullptr;
  std::string missing;  // why it cannot be used

  GpuLibrary() {
    const fs::path path = place();
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: its code outlives main
    if (library == nullptr) {
      const char* reason = ::dlerror();
      missing = fs::exists(path)
                    ? fmt::format("{} does not load: {}", path.string(), reason)
                    : fmt::format("{} is not there: this build has no CUDA kernels", path.string());
      return;
    }
    bool whole = find(library, "nightshift_gpu_count", count);
    whole = find(library, "nightshift_gpu_backend", make) && whole;
    whole = find(library, "nightshift_gpu_facts", facts) && whole;
    whole = find(library, "nightshift_gpu_number", number) && whole;
    whole = find(library, "nightshift_why_no_gpu_group", why_no_group) && whole;
    whole = find(library, "nightshift_gpu_group_id", group_id) && whole;
    whole = find(library, "nightshift_gpu_group", group) && whole;
    if (!whole) missing = fmt::format("{} is not of this version of nightshift", path.string());
  }

  template <class Function>
  static bool find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
    return function != nullptr;
  }

  static fs::path place() {
    if (const char* named = std::getenv("NIGHTSHIFT_CUDA_LIBRARY"); named != nullptr && *named != '\0')
      return named;
    std::error_code ignored;
    return fs::read_symlink("/proc/self/exe", ignored).parent_path() / "nightshift-cuda.so";
  }
};

const GpuLibrary& library() {
  static const GpuLibrary loaded;
  return loaded;
}

void ask_for_gpu() {
  if (const std::string reason = why_no_gpu(); !reason.empty())
    throw Error(fmt::format("no GPU: {}", reason), "run.device = \"cpu\" runs without one");
}

}  // namespace

int gpu_count() {
  return library().missing.empty() ? library().count() : 0;
}

std::string why_no_gpu() {
  if (!library().missing.empty()) return library().missing;
  return library().count() > 0
             ? ""
             : "no GPU that its driver shows to this process (nvidia-smi, CUDA_VISIBLE_DEVICES)";
}

GpuFacts gpu_facts(int device) {
  ask_for_gpu();
  GpuFacts facts;
  library().facts(device, facts);
  return facts;
}

std::unique_ptr<Backend> make_gpu_backend(int device, bool strict) {
  ask_for_gpu();
  return std::unique_ptr<Backend>(library().make(device, strict));
}

int gpu_of(const Backend& backend) {
  NS_CHECK(backend.device() == Device::cuda, "gpu_of: a backend on {}", name_of(backend.device()));
  return library().number(&backend);
}

std::string why_no_gpu_group() {
  if (std::string reason = why_no_gpu(); !reason.empty()) return reason;
  std::string reason;
  library().why_no_group(&reason);
  return reason;
}

GpuGroupId new_gpu_group_id() {
  GpuGroupId id{};
  library().group_id(&id);
  return id;
}

std::unique_ptr<GpuGroup> make_gpu_group(Backend& backend, const GpuGroupId& id, int rank, int size,
                                         const std::string& name) {
  NS_CHECK(backend.device() == Device::cuda && size > 0 && rank >= 0 && rank < size,
           "make_gpu_group: rank {} of {} on {}", rank, size, name_of(backend.device()));
  return std::unique_ptr<GpuGroup>(library().group(&backend, &id, rank, size, name.c_str()));
}

}  // namespace nightshift::kernels
