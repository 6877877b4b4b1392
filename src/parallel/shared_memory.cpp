// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>

#include "core/check.h"
#include "core/text.h"
#include "parallel/communicator.h"
#include "parallel/mpi_check.h"

namespace nightshift::parallel {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::byte* aligned(void* address, std::size_t to) {
  const auto value = reinterpret_cast<std::uintptr_t>(address);
  return static_cast<std::byte*>(address) + (to - value % to) % to;
}

// Where Open MPI keeps the file behind a window; other MPIs, and Open MPI unless told otherwise, use
// /dev/shm.
std::string window_directory() {
  std::string directory = "/dev/shm";
  int provided = 0, index = 0, count = 0;
  if (MPI_T_init_thread(MPI_THREAD_SINGLE, &provided) != MPI_SUCCESS) return directory;
  MPI_T_cvar_handle handle = MPI_T_CVAR_HANDLE_NULL;
  if (MPI_T_cvar_get_index("osc_sm_backing_directory", &index) == MPI_SUCCESS &&
      MPI_T_cvar_handle_alloc(index, nullptr, &handle, &count) == MPI_SUCCESS) {
    std::string value(static_cast<std::size_t>(count) + 1, '\0');
    if (MPI_T_cvar_read(handle, value.data()) == MPI_SUCCESS && value[0] == '/') directory = value.c_str();
    MPI_T_cvar_handle_free(&handle);
  }
  MPI_T_finalize();
  return directory;
}

// Memory of a tmpfs is promised, not given: who touches a page that it has no room for dies of SIGBUS, later
// and without a word. So look before. Open MPI wants 5 % to spare, too. The lowest count of all ranks
// decides, so that all of the host throw or none.
void check_space(const Communicator& host, std::size_t bytes, const char* label) {
  const std::string directory = window_directory();
  struct statvfs space {};
  const bool known = ::statvfs(directory.c_str(), &space) == 0;
  const std::uint64_t here = known ? std::uint64_t{space.f_bavail} * space.f_frsize : INT64_MAX;
  const auto free =
      static_cast<double>(host.min(static_cast<std::int64_t>(std::min<std::uint64_t>(here, INT64_MAX))));
  if (1.06 * static_cast<double>(bytes) <= free) return;
  throw Error(
      fmt::format("{}: the ranks of host {} share {}, but {} has {} free", label, Communicator::host_name(),
                  format_bytes(static_cast<double>(bytes)), directory, format_bytes(free)),
      fmt::format(
          "enlarge it (mount -o remount,size=... {}; containers: --shm-size), or run one rank per host",
          directory));
}

}  // namespace

struct SharedMemory::Impl {
  Communicator host;
  std::span<std::byte> bytes;
  MPI_Win window = MPI_WIN_NULL;  // several ranks
  void* own = nullptr;            // one
  std::size_t own_bytes = 0;
  int exceptions = std::uncaught_exceptions();

  Impl(Communicator of_host, std::size_t size, const char* label);
  ~Impl();
  void allocate(std::size_t size, const char* label);
  void share(std::size_t size, const char* label);
};

SharedMemory::Impl::Impl(Communicator of_host, std::size_t size, const char* label)
    : host(std::move(of_host)) {
  if (host.size() == 1)
    allocate(size, label);
  else
    share(size, label);
  ::madvise(bytes.data(), bytes.size(), MADV_HUGEPAGE);  // a wish: failure costs speed only
}

void SharedMemory::Impl::allocate(std::size_t size, const char* label) {
  own_bytes = std::max<std::size_t>(size, 1) + kHugePage;
  own = ::mmap(nullptr, own_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (own == MAP_FAILED)
    throw Error(
        fmt::format("{}: no {} of memory on host {}: {}", label, format_bytes(static_cast<double>(size)),
                    Communicator::host_name(), std::strerror(errno)),
        "use more ranks or nodes, or a smaller model");
  bytes = {aligned(own, kHugePage), size};
}

// Rank 0 of the host allocates all of it. Nobody touches a page here: pages belong to the memory of the
// processor whose rank writes them first.
void SharedMemory::Impl::share(std::size_t size, const char* label) {
  const std::size_t room = size + kPage;
  check_space(host, room, label);
  const MPI_Comm comm = host.impl_->comm;
  void* base = nullptr;
  NS_MPI(MPI_Win_allocate_shared(host.rank() == 0 ? static_cast<MPI_Aint>(room) : 0, 1, MPI_INFO_NULL, comm,
                                 &base, &window));
  NS_MPI(MPI_Win_set_errhandler(window, MPI_ERRORS_RETURN));
  MPI_Aint allocated = 0;
  int unit = 0;
  NS_MPI(MPI_Win_shared_query(window, 0, &allocated, &unit, &base));
  NS_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, window));  // loads and stores from now to the end
  bytes = {aligned(base, kPage), size};  // every rank maps the window at a page, so all skip the same bytes
}

// Freeing a window is collective: not while an error unwinds this rank alone.
SharedMemory::Impl::~Impl() {
  if (own != nullptr) ::munmap(own, own_bytes);
  if (window == MPI_WIN_NULL || std::uncaught_exceptions() > exceptions) return;
  MPI_Win_unlock_all(window);
  MPI_Win_free(&window);
}

SharedMemory::SharedMemory(const Communicator& ranks, std::size_t bytes, const char* label) {
  MPI_Comm host = MPI_COMM_NULL;
  NS_MPI(MPI_Comm_split_type(ranks.impl_->comm, MPI_COMM_TYPE_SHARED, ranks.rank(), MPI_INFO_NULL, &host));
  impl_ = std::make_unique<Impl>(
      Communicator(std::make_unique<Communicator::Impl>(host, ranks.impl_->family)), bytes, label);
}

SharedMemory::~SharedMemory() = default;

std::span<std::byte> SharedMemory::bytes() const {
  return impl_->bytes;
}

const Communicator& SharedMemory::host() const {
  return impl_->host;
}

void SharedMemory::publish() const {
  if (impl_->window == MPI_WIN_NULL) return;
  NS_MPI(MPI_Win_sync(impl_->window));
  impl_->host.barrier();
  NS_MPI(MPI_Win_sync(impl_->window));
}

}  // namespace nightshift::parallel
