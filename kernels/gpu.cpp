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
  using Facts = void (*)(int, GpuFacts&);

  Count count = nullptr;
  Make make = nullptr;
  Facts facts = nullptr;
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
    count = reinterpret_cast<Count>(::dlsym(library, "nightshift_gpu_count"));
    make = reinterpret_cast<Make>(::dlsym(library, "nightshift_gpu_backend"));
    facts = reinterpret_cast<Facts>(::dlsym(library, "nightshift_gpu_facts"));
    if (count == nullptr || make == nullptr || facts == nullptr)
      missing = fmt::format("{} is not of this version of nightshift", path.string());
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

}  // namespace nightshift::kernels
